"""The deep window: torch's own profiler for three steps, once, for the time of each operator by stage.

It starts and stops where a step ends, and each step in it is marked by INSTRUMENT events, so that the statistics
leave it out. Of what the profiler keeps we read only the raw list of events: its own tables take seconds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from typing import Any

import torch
import torch.autograd.profiler as autograd_profiler

from ..record.vocabulary import Instrument, Kind, Name, code
from .recent import StageTimes, count_steps, recent_events
from .session import Session
from .settings import seen

STEPS = 3
_FIRST_STEP = 30
_FIRST_NS = 5_000_000_000  # after the first step: the window's 0.3 s are little by then
_LONG_STEP_NS = 1_000_000_000  # one such step is enough
_LONGEST_STEP_NS = 30_000_000_000
_RETRY_STEPS = 16
_TRIES = 4
_MOST_ROWS = 60

_PUSH = code(Kind.PUSH, Name.INSTRUMENT, Instrument.DEEP_WINDOW)
_POP = code(Kind.POP, Name.INSTRUMENT, Instrument.DEEP_WINDOW)

_LOG_LEVEL = "KINETO_LOG_LEVEL"
_START_FUNCTIONS = ("_prepare_profiler", "_enable_profiler")


def install(session: Session) -> None:
    """Open the window when the training is under way, if the session looks deep."""
    if not session.config.deep:
        return
    deep = DeepWindow(session)
    session.on_step(deep.on_step)
    session.epoch_listeners.append(deep.epoch_begins)
    session.on_close(deep.abandon)


class DeepWindow:
    """Waits for its time, profiles a few steps, and is done."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._profiling: Profiling | None = None
        self._first_step_ns = 0
        self._left = 0
        self._tries = 0
        self._epochs = 0

    def on_step(self) -> int | None:
        """Listens to optimizer steps; returns the next one of interest."""
        session = self._session
        if session.owner != get_ident():
            return session.steps + 1
        if self._profiling is not None:
            return self._advance(self._profiling)
        now_ns = session.clock()
        if not self._first_step_ns:
            self._first_step_ns = now_ns
            return _FIRST_STEP
        elapsed_ns = now_ns - self._first_step_ns
        if elapsed_ns < _FIRST_NS:
            return session.steps + _RETRY_STEPS
        why = why_not_profile() or self._too_long(elapsed_ns)
        if why is not None:
            return self._later(why)
        rounds = max(1, len(seen(session).living_optimizers()))
        self._left = rounds * (1 if elapsed_ns / session.steps * rounds > _LONG_STEP_NS else STEPS)
        session.write(_PUSH)
        try:
            self._profiling = Profiling()
        finally:
            session.write(_POP)
        return session.steps + 1

    def _advance(self, profiling: Profiling) -> int | None:
        session = self._session
        if not profiling.running:  # another profiler was started, and ours gave way
            self._profiling = None
            return self._later("another profiler is active")
        session.write(_PUSH)
        try:
            self._left -= 1
            if self._left > 0:
                return session.steps + 1
            self._profiling = None
            self._report(profiling)
        finally:
            session.write(_POP)
        return None

    def _report(self, profiling: Profiling) -> None:
        session = self._session
        kineto_events = profiling.stop()
        unix_ahead_ns = time.time_ns() - time.perf_counter_ns()
        session.drain()
        events = recent_events(session.folder(), "thread-0", profiling.began_ns)
        steps = count_steps(events)
        if steps == 0:
            session.note("unobserved", what="operators", why="no step ended while the operators were watched")
            return
        stages = StageTimes(events)
        rows = operator_rows(kineto_events, lambda unix_ns: stages.at(unix_ns - unix_ahead_ns), steps)
        session.note("operators", rows=rows[:_MOST_ROWS], steps=steps)

    def _later(self, why: str) -> int | None:
        self._tries += 1
        if self._tries < _TRIES:
            return self._session.steps + _RETRY_STEPS
        self._session.note("unobserved", what="operators", why=why)
        return None

    def _too_long(self, elapsed_ns: int) -> str | None:
        if elapsed_ns / self._session.steps > _LONGEST_STEP_NS:
            return "a step is too long to be watched operator by operator"
        return None

    def epoch_begins(self) -> None:
        """An evaluation, or workers to be forked, may follow: give up, unless the loop does this at each step."""
        self._epochs += 1
        profiling = self._profiling
        if profiling is None or 2 * self._epochs > self._session.steps:
            return
        if profiling.running and profiling.thread == get_ident():
            self._session.write(_PUSH)
            profiling.stop()
            self._session.write(_POP)

    def abandon(self) -> None:
        """The session ends."""
        profiling, self._profiling = self._profiling, None
        if profiling is not None and profiling.running:
            profiling.stop()


def why_not_profile() -> str | None:
    """Why torch's profiler can't be used here and now; None when it can."""
    if not torch.autograd.kineto_available():
        return "this build of torch has no operator profiler"
    if getattr(autograd_profiler, "_is_profiler_enabled", False) or torch._C._autograd._profiler_enabled():
        return "another profiler is active"
    if any(os.environ.get(name) for name in ("KINETO_USE_DAEMON", "KINETO_CONFIG")):
        return "another profiler is active"
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured"
    return None


class Profiling:
    """torch's profiler at work. Where the user starts one of theirs, ours gives way first."""

    def __init__(self) -> None:
        self.began_ns = time.perf_counter_ns()
        self.thread = get_ident()
        with _quiet():
            # torch.profiler's own front door costs 2 s and 75 MB of imports the first time (torch 2.13)
            self._profile: Any = autograd_profiler.profile(
                use_device="cuda" if torch.cuda.is_initialized() else None, use_kineto=True
            )
            self._profile._prepare_trace()
            self._profile._start_trace()
        self.running = True
        self._replaced: list[tuple[str, Any, Any]] = []
        for name in _START_FUNCTIONS:
            original = getattr(autograd_profiler, name)
            wrapper = self._after_ours(original)
            setattr(autograd_profiler, name, wrapper)
            self._replaced.append((name, original, wrapper))

    def _after_ours(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            if self.running:
                self.stop()
            return original(*args, **kwargs)

        return start

    def stop(self) -> list[Any]:
        """End it; the raw events. Everything else of it is freed."""
        self.running = False
        for name, original, wrapper in self._replaced:
            if getattr(autograd_profiler, name) is wrapper:
                setattr(autograd_profiler, name, original)
        self._profile = None
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # else the last kernels are lost
        # not the profile's own __exit__: older versions make their tables there, which takes seconds
        results = autograd_profiler._disable_profiler()
        autograd_profiler._run_on_profiler_stop()
        return list(results.events())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Kineto writes lines to stderr, which is the user's."""
    before = os.environ.get(_LOG_LEVEL)
    os.environ[_LOG_LEVEL] = "99"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_LOG_LEVEL]
        else:
            os.environ[_LOG_LEVEL] = before


def operator_rows(events: Iterable[Any], stage_at: Callable[[int], str], steps: int) -> list[dict[str, Any]]:
    """Time and calls per step by operator, stage and device, most time first.

    On the CPU an operator's time is its own, without that of the operators it calls. A kernel belongs to the
    stage that launched it, whenever it ran.

    Args:
        events: kineto's events, as `torch.profiler` keeps them.
        stage_at: the stage at a time in ns since the epoch.
        steps: how many steps they span.
    """
    threads: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    launches: dict[int, int] = {}
    kernels: list[tuple[str, int, int, int, str]] = []
    for event in events:
        start_ns, length_ns = event.start_ns(), event.duration_ns()
        device = str(event.device_type()).rpartition(".")[2].lower()
        if device == "cpu":
            if not event.is_async():
                threads[event.start_thread_id()].append((start_ns, -length_ns, event.name()))
                launches[event.correlation_id()] = start_ns
        elif not _is_annotation(event):
            kernels.append((event.name(), start_ns, length_ns, event.linked_correlation_id(), device))
    totals: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for operators in threads.values():
        for name, middle_ns, own_ns in _own_times(sorted(operators)):
            total = totals[name, stage_at(middle_ns), "cpu"]
            total[0] += own_ns
            total[1] += 1
    for name, start_ns, length_ns, launch, device in kernels:
        total = totals[name, stage_at(launches.get(launch, start_ns)), device]
        total[0] += length_ns
        total[1] += 1
    rows = [
        {
            "name": name,
            "stage": stage,
            "ms_per_step": own_ns / 1e6 / steps,
            "calls_per_step": calls / steps,
            "device": device,
        }
        for (name, stage, device), (own_ns, calls) in totals.items()
    ]
    return sorted(rows, key=lambda row: -float(str(row["ms_per_step"])))


def _is_annotation(event: Any) -> bool:
    """A range of the host's, drawn on the device's track."""
    asked = getattr(event, "is_user_annotation", None)
    return bool(asked()) if asked is not None else False


def _own_times(operators: Iterable[tuple[int, int, str]]) -> list[tuple[str, int, int]]:
    """(name, middle, own time) of one thread's operators, given as (start, -length, name) in order.

    The middle tells the stage better than the start: torch's range around an optimizer's step begins before our
    hook runs.
    """
    done: list[tuple[str, int, int]] = []
    stack: list[list[Any]] = []  # [end, name, middle, own]
    for start_ns, negative_ns, name in operators:
        length_ns = -negative_ns
        while stack and stack[-1][0] <= start_ns:
            done.append((stack[-1][1], stack[-1][2], stack.pop()[3]))
        if stack:
            stack[-1][3] -= length_ns
        stack.append([start_ns + length_ns, name, start_ns + length_ns // 2, length_ns])
    done += [(name, middle_ns, own_ns) for _, name, middle_ns, own_ns in stack]
    return [(name, middle_ns, max(0, own_ns)) for name, middle_ns, own_ns in done]
