"""The deep window: torch's own profiler for three steps, for the time of each operator by stage.

It starts and stops where a step ends, and each step in it is marked by INSTRUMENT events, so that the statistics
leave it out. It opens once the training is under way, and once more when the steps have changed for long. Of what the
profiler keeps we read only the raw list of events: its own tables take seconds. On an accelerator the events are kept
too, as a trace file that the reader of traces reads; there its steps are marked, as torch's own front door marks them.

An operator costs some 30 us and 4 kB: one step is enough where the first takes so much longer than usual that it has
tens of thousands, and what reading them took is given back to the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

import torch
import torch.autograd.profiler as autograd_profiler

from ..record.layout import window_path
from ..record.vocabulary import Instrument, Kind, Name, code
from .behaviour import Pace
from .device_times import training_device
from .operators import watched
from .recent import StageTimes, count_steps, recent_events
from .session import Session
from .settings import seen

STEPS = 3
_FIRST_STEP = 30
_FIRST_NS = 5_000_000_000  # after the first step: the window's 0.3 s are little by then
_LONG_STEP_NS = 1_000_000_000  # one such step is enough
_HEAVY_NS = 30_000_000  # by which watching slows a step down that has 20,000 operators …
_HEAVY_SHARE = 0.15  # … where that is also so much of the step: others are as uneven by themselves
_LONGEST_STEP_NS = 30_000_000_000
_RETRY_STEPS = 16
_TRIES = 4
_WINDOWS = 2
_MANY_EVENTS = 20_000  # 80 MB, worth giving back: less is used again by the training
_MOST_EVENTS = 150_000  # kept in a file, at some 300 bytes each
_MOST_BYTES = 64 << 20

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
    """Waits for its time, profiles a few steps, and waits whether the run changes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._profiling: Profiling | None = None
        self._pace: Pace | None = None  # since the first window closed
        self._first_step_ns = 0
        self._left = 0
        self._rounds = 1
        self._steps = STEPS
        self._tries = 0
        self._epochs = 0
        self._closed = 0  # windows that were read
        self._looked: tuple[int, int] = (0, 0)  # step and time of the last look
        self._before_ns = 0.0  # a step before the window

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
            self._looked = (session.steps, now_ns)
            return session.steps + _RETRY_STEPS
        looked, self._looked = self._looked, (session.steps, now_ns)
        self._before_ns = (now_ns - looked[1]) / max(1, session.steps - looked[0])
        if self._pace is not None:
            following = self._pace.look(session.steps)
            if not self._pace.changed:
                return following
            self._before_ns = 1e6 * (self._pace.step_ms or 0.0)
        why = why_not_profile() or self._too_long(elapsed_ns)
        if why is not None:
            return self._later(why)
        self._rounds = max(1, len(seen(session).living_optimizers()))
        if elapsed_ns / session.steps * self._rounds > _LONG_STEP_NS:
            self._steps = 1
        self._left = self._rounds * self._steps
        session.write(_PUSH)
        try:
            self._profiling = Profiling(device_in_use(session))
            self._profiling.next_step(session.steps)
        except RuntimeError as error:  # torch's profiler is not ours: the recording goes on without it
            return self._later(f"torch's profiler would not start ({error})")
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
            if self._left > 0 and self._left % self._rounds == 0 and self._is_heavy(profiling):
                self._left = 0
            if self._left > 0:
                if self._left % self._rounds == 0:
                    profiling.next_step(session.steps)
                return session.steps + 1
            self._profiling = None
            if not self._report(profiling):
                self._steps = 1
                return self._later("a step has too many events to be kept")
        except (RuntimeError, AttributeError, TypeError) as error:  # another version of torch may say it differently
            return self._later(f"torch's profiler could not be read ({type(error).__name__}: {error})")
        finally:
            session.write(_POP)
        self._closed += 1
        if self._closed >= _WINDOWS:
            return None
        self._pace = Pace(session.clock)
        return self._pace.look(session.steps)

    def _is_heavy(self, profiling: Profiling) -> bool:
        """Whether the steps so far took so much longer than usual that they have very many operators.

        Not asked on an accelerator, whose recording begins slowly; there the number of events is bounded.
        """
        if profiling.device is not None:
            return False
        steps = self._steps - self._left // self._rounds
        slower_ns = (time.perf_counter_ns() - profiling.started_ns) / steps - self._before_ns * self._rounds
        return slower_ns > max(_HEAVY_NS, _HEAVY_SHARE * self._before_ns * self._rounds)

    def _report(self, profiling: Profiling) -> bool:
        """Note what was seen; False where the trace is too long, and a window of one step may not be."""
        session = self._session
        stopped_ns = time.perf_counter_ns()
        results = profiling.stop()
        kineto_events = results.events()
        unix_ahead_ns = time.time_ns() - time.perf_counter_ns()
        session.drain()
        events = recent_events(session.folder(), "thread-0", profiling.began_ns)
        steps = count_steps(events)
        if steps == 0:
            session.note("unobserved", what="operators", why="no step ended while the operators were watched")
            return True
        if profiling.device is not None and len(kineto_events) > _MOST_EVENTS and self._steps > 1:
            return False
        stages = StageTimes(events)
        seen_here = watched(kineto_events, lambda unix_ns: stages.at(unix_ns - unix_ahead_ns), steps)
        session.note(
            "operators",
            rows=seen_here.rows,
            threads=seen_here.threads,
            flops=seen_here.flops,
            steps=steps,
            watched_ms=(stopped_ns - profiling.began_ns) / 1e6 / steps,
            at_step=session.steps,
            before_ms=self._before_ns / 1e6,
            file=None if profiling.device is None else self._keep(results, len(kineto_events)),
        )
        many = len(kineto_events) >= _MANY_EVENTS
        del results, kineto_events
        if many:
            _give_back_memory()
        return True

    def _keep(self, results: Any, events: int) -> str | None:
        """Write the events to a file of the run's; its name."""
        if events > _MOST_EVENTS:
            self._session.note("unobserved", what="device window", why="its trace was too long to be kept")
            return None
        path = window_path(self._session.folder(), self._closed)
        results.save(str(path))
        if path.stat().st_size > _MOST_BYTES:
            path.unlink()
            self._session.note("unobserved", what="device window", why="its trace was too long to be kept")
            return None
        return path.name

    def _later(self, why: str) -> int | None:
        self._tries += 1
        if self._tries < _TRIES:
            return self._session.steps + _RETRY_STEPS
        if not self._closed:
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


def device_in_use(session: Session) -> str | None:
    """The kind of accelerator on which the training runs and which torch's profiler can watch; else None."""
    device = training_device(session)
    kind = device.type if isinstance(device, torch.device) else None
    if isinstance(device, str):  # several of them
        kind = "cuda" if torch.cuda.is_initialized() else None
    if kind not in ("cuda", "xpu") or not getattr(torch, kind).is_initialized():
        return None
    # without its library torch would fall back on events that wait for the device
    watchable = {str(activity).rpartition(".")[2] for activity in torch.autograd._supported_activities()}
    return kind if kind.upper() in watchable else None


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


def _give_back_memory() -> None:
    """What was freed goes back to the system, where the C library keeps it else: glibc's."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class Profiling:
    """torch's profiler at work. Where the user starts one of theirs, ours gives way first."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device
        self.began_ns = time.perf_counter_ns()
        self.thread = get_ident()
        with _quiet():
            # torch.profiler's own front door costs 2 s and 75 MB of imports the first time (torch 2.13)
            self._profile: Any = autograd_profiler.profile(use_device=device, use_kineto=True, record_shapes=True)
            self._profile._prepare_trace()
            self._profile._start_trace()
        self.started_ns = time.perf_counter_ns()  # starting it the first time takes long
        self.running = True
        self._step: Any = None
        self._replaced: list[tuple[str, Any, Any]] = []
        for name in _START_FUNCTIONS:
            original = getattr(autograd_profiler, name)
            wrapper = self._after_ours(original)
            setattr(autograd_profiler, name, wrapper)
            self._replaced.append((name, original, wrapper))

    def next_step(self, number: int) -> None:
        """A step begins here: mark it in the trace, if there is to be one."""
        if self.device is None or not self.running:
            return
        self._end_step()
        self._step = autograd_profiler.record_function(f"ProfilerStep#{number}")
        self._step.__enter__()

    def _end_step(self) -> None:
        step, self._step = self._step, None
        if step is not None and self.thread == get_ident():
            step.__exit__(None, None, None)

    def _after_ours(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            if self.running:
                self.stop()
            return original(*args, **kwargs)

        return start

    def stop(self) -> Any:
        """End it; what torch recorded. Everything else of it is freed."""
        self.running = False
        for name, original, wrapper in self._replaced:
            if getattr(autograd_profiler, name) is wrapper:
                setattr(autograd_profiler, name, original)
        self._profile = None
        self._end_step()
        if self.device is not None:
            getattr(torch, self.device).synchronize()  # else the last kernels are lost
        # not the profile's own __exit__: older versions make their tables there, which takes seconds
        results = autograd_profiler._disable_profiler()
        autograd_profiler._run_on_profiler_stop()
        return results


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
