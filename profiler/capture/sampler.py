"""See what the training thread runs: a daemon thread that looks a hundred times a second or less.

Out: the stream `sampler` (in a DataLoader's worker `wsampler-<pid>`): SAMPLE events, each followed by values of
memory; once a second a RESOURCES mark followed by readings of cores, children and GPU; a `site` note for each
place seen, and at the end a `sampler` note with our share of the time.

The share is kept to `BUDGET_SHARE` by the sampler's own CPU clock, plus an allowance for handing the GIL over:
the period grows when a look gets dear. A run begins with the budget of its first `HEAD_START_NS` (30 ms) in hand, for
our own beginning and for looking more often while little was seen; it is spent within a few seconds.

A Python thread wakes up only when the one that runs lets go of the GIL, by itself (which torch does at each
call) or when the switch interval is over. So a line that holds the GIL loses its last switch interval to the
line after it. While no further Python threads run, we shorten the interval from 5 ms to 0.2 ms. Measured on a loop
of 3 ms of pure Python and 3 ms without the GIL (2 cores): pure Python had 57 % of the time and 0-3 % of the samples
at 5 ms, 56 % and 46 % at 0.5 ms, 53 % and 48 % at 0.2 ms. Where no core is free for us the bias is larger.
So too in a DataLoader's worker, where a decoder that holds the GIL would be counted for the line after it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType

import torch

from ..record.tape import Tape
from ..record.vocabulary import Kind, Name, code, sample_code
from . import limits, nvml, resources
from .callsite import is_user_code
from .session import Session
from .settings import seen
from .sites import Sites
from .stack_walk import Stack, stack_of

BUDGET_SHARE = 0.003  # of the time; of it a tenth for the readings of once a second
SHORTEST_PERIOD_MS = 5.0
HANDOVER_NS = 50_000  # allowance for what a look costs the training thread beyond our own CPU time
SWITCH_INTERVAL_S = 0.0002
_RESOURCES_EVERY_NS = 1_000_000_000
_CHILDREN_EVERY = 4  # readings; they list and open a file for each child
_DEVICE_EVERY = 4  # looks; asking torch's allocator takes longer than the rest of a look
_FIRST_NOTE_NS = 10_000_000_000
_JOIN_S = 0.5
_FIRST_GUESS_NS = 100_000.0
_FIRST_READING_NS = 300_000.0
_WORKER_THREADS = 3  # of a DataLoader's worker: its loop, the queue's feeder, which mostly waits, and ours
HEAD_START_NS = 10_000_000_000
_SPEND_WITHIN_NS = 4_000_000_000  # what is in hand (or overdrawn) is spent (or saved) at this pace

_RSS = code(Kind.VALUE, Name.RSS_BYTES)
_ALLOCATED = code(Kind.VALUE, Name.DEVICE_ALLOCATED_BYTES)
_RESERVED = code(Kind.VALUE, Name.DEVICE_RESERVED_BYTES)
_PEAK = code(Kind.VALUE, Name.DEVICE_PEAK_BYTES)
_RETRIES = code(Kind.VALUE, Name.DEVICE_ALLOC_RETRIES)
_INACTIVE = code(Kind.VALUE, Name.DEVICE_INACTIVE_BYTES)
_RESOURCES = code(Kind.MARK, Name.RESOURCES)


def install(session: Session) -> None:
    """Start the sampler at the first backward pass or optimizer step: not in processes that never train."""

    def start() -> None:
        Sampler(session, session.stream("sampler"), lambda: session.owner, Sites(session)).start()

    session.on_training(start)


def start_worker_sampler(session: Session) -> None:
    """In a DataLoader's worker: see what its main thread runs between taking an index and giving a batch."""
    pid = os.getpid()
    main = threading.get_ident()
    tape = session.stream(f"wsampler-{pid}", limit_segments=8, segment_bytes=1 << 18)
    Sampler(session, tape, lambda: main, Sites(session, worker_pid=pid), worker=True).start()


class Sampler:
    """One sampling thread."""

    def __init__(
        self,
        session: Session,
        tape: Tape,
        target: Callable[[], int | None],
        sites: Sites,
        worker: bool = False,
    ) -> None:
        self._session = session
        self._tape = tape
        self._target = target  # the identity of the thread to look at
        self._sites = sites
        self._worker = worker
        self._pid = os.getpid()
        self._rss = resources.rss_reader()
        self._readings = None if worker else Readings(session, tape)
        self._wake = threading.Lock()  # held; its release ends the thread at once
        self._interval_ns = int(max(session.config.sample_interval_ms, SHORTEST_PERIOD_MS) * 1e6)
        self._began_ns = 0
        self._looks = 0
        self._spent_ns = 0  # CPU time of our thread
        self._device_reads = not worker
        self._thread = threading.Thread(target=self._run, name="prof-sampler", daemon=True)

    # life

    def start(self) -> None:
        """Begin to look; ends with the session."""
        self._wake.acquire()
        self._session.on_close(self.stop)
        self._began_ns = time.perf_counter_ns()
        if not self._worker and self._rss is None:
            self._session.note("unobserved", what="rss", why="this system has no /proc/self/statm")
        self._thread.start()

    def stop(self) -> None:
        """End the thread and say what it cost. In the child of a fork there is no thread to end."""
        if os.getpid() == self._pid and self._wake.locked():
            self._note_share()
            self._wake.release()
            if self._thread is not threading.current_thread():
                self._thread.join(_JOIN_S)
            if self._readings is not None:
                self._readings.close()
        _lengthen_switch_interval()

    def _note_share(self) -> None:
        if not self._worker:
            share = self._share(time.perf_counter_ns())
            self._session.note("sampler", share=share, samples=self._looks)

    def _share(self, now_ns: int) -> float:
        """What we cost so far, as a share of the time since we began."""
        return self._cost_so_far_ns() / max(1, now_ns - self._began_ns)

    def _cost_so_far_ns(self) -> int:
        return self._spent_ns + self._looks * HANDOVER_NS

    def _pace(self, now_ns: int) -> float:
        """Share of the time to come that looks may take."""
        in_hand_ns = BUDGET_SHARE * (now_ns - self._began_ns + HEAD_START_NS) - self._cost_so_far_ns()
        return max(0.9 * BUDGET_SHARE + in_hand_ns / _SPEND_WITHIN_NS, 0.1 * BUDGET_SHARE)

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Hooks may be in use on the training thread: have it end the recording at its next step."""
        session = self._session
        if self._worker:
            session.fail("the sampler", error)
        else:
            session.on_step(lambda: session.fail("the sampler", error))

    def _loop(self) -> None:
        """Look, read, and keep to the budget. The last `sampler` note is the one that counts."""
        look_ns = _FIRST_GUESS_NS
        period_ns = self._interval_ns
        jitter = self._pid
        reading_ns = _FIRST_READING_NS
        threads = _WORKER_THREADS if self._worker else 2
        _fit_switch_interval(threads)
        next_resources_ns, next_note_ns = self._began_ns, self._began_ns + _FIRST_NOTE_NS
        while self._session.active:
            jitter = (jitter * 1103515245 + 12345) & 0x7FFFFFFF  # our own: the user's random state is theirs
            wait_ns = max(SHORTEST_PERIOD_MS * 1e6, period_ns * (0.5 + jitter / 0x7FFFFFFF))
            if self._wake.acquire(timeout=wait_ns / 1e9):
                return
            if not self._worker:
                self._session.drain()
            self._look()
            # a look that meets a new place costs its note, once: it is not the measure of what looks cost
            look_ns += 0.1 * (min(self._cost_ns(), 4 * look_ns) - look_ns)
            now_ns = time.perf_counter_ns()
            period_ns = max(self._interval_ns, int((look_ns + HANDOVER_NS) / self._pace(now_ns)))
            if self._readings is None or now_ns < next_resources_ns:
                continue
            self._readings.read()
            _fit_switch_interval(threads)
            reading_ns += 0.2 * (min(self._cost_ns(), 4 * reading_ns) - reading_ns)
            next_resources_ns = now_ns + max(_RESOURCES_EVERY_NS, int(reading_ns / (0.1 * BUDGET_SHARE)))
            if now_ns >= next_note_ns:  # for a run that is killed
                self._note_share()
                next_note_ns = self._began_ns + 2 * (now_ns - self._began_ns)

    def _cost_ns(self) -> int:
        """CPU time of this thread since the last call."""
        spent_ns = time.thread_time_ns()
        cost_ns = spent_ns - self._spent_ns
        self._spent_ns = spent_ns
        return cost_ns

    # one look

    def _look(self) -> None:
        """Write where the thread is, and how much memory is in use."""
        target = self._target()
        site = self._site(stack_of(target)) if target is not None else None
        if site is None:
            return
        self._looks += 1
        self._tape.write(sample_code(site))
        if self._rss is not None:
            self._tape.write_value(_RSS, self._rss())
        if self._device_reads and self._looks % _DEVICE_EVERY == 1 and torch.cuda.is_initialized():
            self._read_device()

    def _site(self, stack: Stack) -> int | None:
        at = _place_in_worker(stack) if self._worker else _place_in_training(stack)
        if at is None:
            return None  # e.g. a worker that waits for an index
        inner = next((place for place in stack[:at] if not _is_ours(place[0])), None)
        return self._sites.number(stack[at], inner)

    def _read_device(self) -> None:
        device = seen(self._session).device
        try:
            statistics = torch.cuda.memory_stats_as_nested_dict(device if device and device.type == "cuda" else 0)
            allocated = statistics["allocated_bytes"]["all"]
            reserved = statistics["reserved_bytes"]["all"]
        except (RuntimeError, KeyError):  # an allocator that keeps no statistics
            self._device_reads = False
            self._session.note("unobserved", what="device_memory", why="this CUDA allocator keeps no statistics")
            return
        self._tape.write_value(_ALLOCATED, allocated["current"])
        self._tape.write_value(_RESERVED, reserved["current"])
        self._tape.write_value(_PEAK, allocated["peak"])
        if "num_alloc_retries" in statistics:
            self._tape.write_value(_RETRIES, statistics["num_alloc_retries"])
        inactive = statistics.get("inactive_split_bytes", {}).get("all")
        if inactive is not None:
            self._tape.write_value(_INACTIVE, inactive["current"])


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))  # noqa: PTH100, PTH120
_STDLIB = os.path.dirname(os.path.abspath(threading.__file__))  # noqa: PTH100, PTH120


def _is_ours(function: CodeType) -> bool:
    return function.co_filename.startswith(_OURS)


def _place_in_training(stack: Stack) -> int | None:
    """Where in the stack the innermost frame of the user's is.

    For a program that is itself an installed package: its innermost frame outside torch and Python's own.
    """
    for belongs in (is_user_code, _is_installed_program):
        for at, (function, _, _) in enumerate(stack):
            if belongs(function):
                return at
    return None


def _place_in_worker(stack: Stack) -> int | None:
    """Where the innermost frame of the user's is that the worker's loop called; else an installed dataset's own."""
    user = dataset = None
    for at, (function, _, _) in enumerate(stack):
        if function.co_name == "_worker_loop":
            return user if user is not None else dataset
        if user is None and is_user_code(function):
            user = at
        elif _is_installed_program(function):
            dataset = at
    return None  # the worker is starting or ending


def _is_installed_program(function: CodeType) -> bool:
    """Installed code that is neither torch's nor Python's nor ours."""
    path = function.co_filename
    installed = "site-packages" in path or "dist-packages" in path
    return not path.startswith((_TORCH, _OURS, "<")) and (installed or not path.startswith(_STDLIB))


class Readings:
    """What is read once a second."""

    def __init__(self, session: Session, tape: Tape) -> None:
        self._session = session
        self._tape = tape
        self._cores = resources.usable_cores()
        self._limited = limits.core_quota() is not None
        self._count = 0
        self._gpu: nvml.Reader | None = None
        self._looked_for_gpu = False

    def read(self) -> None:
        """A mark, and the values that could be read after it."""
        values: list[tuple[Name, int]] = [(Name.PROCESS_CPU_NS, time.process_time_ns())]
        if hasattr(sys, "getallocatedblocks"):
            values.append((Name.PYTHON_BLOCKS, sys.getallocatedblocks()))
        idle = resources.idle_and_iowait_ns(self._cores)
        if idle is not None:
            values += [(Name.SYSTEM_IDLE_NS, idle[0]), (Name.SYSTEM_IOWAIT_NS, idle[1])]
        used_ns = limits.used_cpu_ns() if self._limited else None
        if used_ns is not None:
            values.append((Name.CONTAINER_CPU_NS, used_ns))
        if self._count % _CHILDREN_EVERY == 0:
            workers = resources.children_rss_bytes()
            if workers is not None:
                values.append((Name.WORKERS_RSS_BYTES, workers))
        self._count += 1
        if not self._looked_for_gpu:
            self._looked_for_gpu = True
            self._gpu = self._open_gpu()
        if self._gpu is not None:
            values += self._gpu.read()
        self._tape.write(_RESOURCES)
        for name, value in values:
            self._tape.write_value(code(Kind.VALUE, name), value)

    def _open_gpu(self) -> nvml.Reader | None:
        device = seen(self._session).device
        reader = None
        if not nvml.driver_exists():
            why = "no NVIDIA driver was found"
        elif not torch.cuda.is_initialized():
            why = "the training did not use CUDA"
        else:
            index = device.index if device is not None and device.type == "cuda" else None
            uuid = getattr(torch.cuda.get_device_properties(index or 0), "uuid", None)
            reader = nvml.open_reader(index, f"GPU-{uuid}" if uuid is not None else None)
            why = "the NVIDIA driver gave no access to the GPU"
        if reader is None:
            self._session.note("unobserved", what="gpu", why=why)
        return reader

    def close(self) -> None:
        """Let go of the driver."""
        if self._gpu is not None:
            self._gpu.close()


# the switch interval

_before_s: float | None = None  # what it was before we shortened it


def _fit_switch_interval(most_threads: int) -> None:
    """Short while at most so many threads run Python, as it was otherwise."""
    if threading.active_count() <= most_threads:
        _shorten_switch_interval()
    else:
        _lengthen_switch_interval()


def _shorten_switch_interval() -> None:
    global _before_s
    current_s = sys.getswitchinterval()
    if _before_s is None and current_s > SWITCH_INTERVAL_S:
        _before_s = current_s
        sys.setswitchinterval(SWITCH_INTERVAL_S)


def _lengthen_switch_interval() -> None:
    """Back to what it was, unless somebody else has set it since."""
    global _before_s
    before_s, _before_s = _before_s, None
    if before_s is not None and abs(sys.getswitchinterval() - SWITCH_INTERVAL_S) < 1e-9:
        sys.setswitchinterval(before_s)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lengthen_switch_interval)
