"""Put every hook in place, and take every hook away."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from threading import get_ident
from types import TracebackType
from typing import Any

import torch

from . import (
    backward,
    communication,
    data_wait,
    deep,
    denormals,
    device_times,
    forward,
    gc_pauses,
    host_to_device,
    instruments,
    kept_graphs,
    memory,
    optimizer,
    out_of_memory,
    sampler,
    settings,
    spans,
    structure,
    workers,
)
from .current import current_session, set_current_session
from .enter import check_in
from .gate import has_short_way, recorded_call
from .session import CaptureConfig, Session

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120


def begin(config: CaptureConfig, clock: Callable[[], int] = time.perf_counter_ns) -> Session:
    """Start to record this process, by a clock in ns; the session that is then current."""
    session = Session(config, clock)
    set_current_session(session)
    check_in(str(config.run_directory), role="torch", torch=torch.__version__)
    hooks: list[tuple[str, Callable[[], Any]]] = [
        ("settings", lambda: settings.install(session)),
        ("data wait", lambda: data_wait.install(session)),
        ("workers", lambda: workers.install(session, lambda: sampler.start_worker_sampler(session))),
        ("host-to-device copy", lambda: host_to_device.install(session)),
        ("forward", lambda: _install_forward(session)),
        ("structure", lambda: structure.install(session)),
        ("backward", lambda: backward.install(session)),
        ("optimizer", lambda: optimizer.install(session)),
        ("communication", lambda: communication.install(session)),
        ("spans", lambda: spans.install(session)),
        ("garbage collection", lambda: gc_pauses.install(session)),
        ("memory", lambda: memory.install(session)),
        ("instruments", lambda: instruments.install(session)),
        ("kept graphs", lambda: kept_graphs.install(session)),
        ("out of memory", lambda: out_of_memory.install(session)),
        ("sampler", lambda: sampler.install(session)),
        ("denormals", lambda: denormals.install(session)),
        ("device times", lambda: device_times.install(session)),
        ("deep window", lambda: deep.install(session)),
    ]
    for where, install in hooks:
        try:
            install()
        except Exception as error:
            session.fail(where, error)
            return session
    _prune_tracebacks(session)
    os.register_at_fork(after_in_child=_forked)
    atexit.register(end, session)
    _note_cost(session)
    return session


def end(session: Session) -> None:
    """Close the session; called at exit, or by the context manager."""
    atexit.unregister(end)
    session.close()
    if current_session() is session:
        set_current_session(None)


def _install_forward(session: Session) -> None:
    search = forward.install(session)
    session.epoch_listeners.append(search.epoch_begins)
    session.optimizer_listeners.append(search.optimizer_is_new)


def _forked() -> None:
    session = current_session()
    if session is not None:
        session.forked()


# Between a training's kernels an event takes about so many times what it takes in a loop of nothing else, where
# everything stays in the caches: 0.75 µs against 0.14 µs by Python functions (benchmarks/overhead.py, idle machine),
# 0.33 µs against 0.025 µs by the short way (blocks in turn, without the sampler: 4 µs a step of 12 events).
IN_A_TRAINING = {"python": 5.0, "short way": 13.0}
_CALLS = 100


def _note_cost(session: Session) -> None:
    """Once the session has seen a step, say what an event costs on this machine."""
    session.on_step(lambda: session.note("cost", ns_per_event=_cost_ns_per_event(session)), first=2)


def _cost_ns_per_event(session: Session) -> float:
    """What one event costs with the call around it, in ns: half of a recorded call less a bare one, scaled."""

    def bare() -> Any:
        return None

    gate = type(session.gate)()
    gate.owner = get_ident()
    if has_short_way(session):
        kind, recorded = "short way", recorded_call(gate, bare)
    else:
        kind, recorded = "python", _recorded(gate.record, bare)
    best = min(_time_ns(recorded) for _ in range(5)) - min(_time_ns(bare) for _ in range(5))
    return max(0.0, IN_A_TRAINING[kind] * best / (2 * _CALLS))


def _recorded(record: Callable[[tuple[int, int]], None], function: Callable[[], Any]) -> Callable[[], Any]:
    """As `timed.timed` wraps a function."""
    clock = time.perf_counter_ns

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if get_ident() == 0:
            return None
        record((0, clock()))
        try:
            result = function(*args, **kwargs)
        except BaseException:
            record((0, clock()))
            raise
        record((0, clock()))
        return result

    return wrapped


def _time_ns(function: Callable[[], Any]) -> int:
    began = time.perf_counter_ns()
    for _ in range(_CALLS):
        function()
    return time.perf_counter_ns() - began


def _prune_tracebacks(session: Session) -> None:
    """Leave our own frames out of the traceback of an exception that nobody caught."""
    if sys.excepthook is not sys.__excepthook__:
        return

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        try:
            for link in _chain(error):
                link.__traceback__ = _without_ours(link.__traceback__)
            traceback = error.__traceback__
        finally:
            sys.__excepthook__(kind, error, traceback)

    sys.excepthook = excepthook

    def restore() -> None:
        if sys.excepthook is excepthook:
            sys.excepthook = sys.__excepthook__

    session.on_end(restore)


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and all(link is not other for other in found):
            found.append(link)
            waiting += [link.__cause__, link.__context__]
    return found


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and _is_ours(traceback):
        traceback = traceback.tb_next
    link = traceback
    while link is not None:
        following = link.tb_next
        while following is not None and _is_ours(following):
            following = following.tb_next
        if following is not link.tb_next:
            link.tb_next = following
        link = following
    return traceback


def _is_ours(traceback: TracebackType) -> bool:
    return traceback.tb_frame.f_code.co_filename.startswith(_OURS + os.sep)
