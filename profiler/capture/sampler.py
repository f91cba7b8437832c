"""See what the training thread runs: a daemon thread that looks at it up to two hundred times a second.

Out: the stream `sampler` (in a DataLoader's worker `wsampler-<pid>`): SAMPLE events, each followed by values of
memory; once a second a RESOURCES mark followed by readings of cores, children and GPU; a `site` note for each
place seen, and at the end a `sampler` note with our share of the time.

The thread spends most of its life in `looks.run`, which is C where it could be built; a few times a second it takes
a turn in Python, in which what was seen is written. The share is kept to `BUDGET_SHARE` by the thread's own CPU
clock, plus an allowance for handing the GIL over: both periods grow when they get dear. A run begins with the budget
of its first `HEAD_START_NS` (30 ms) in hand, for our own beginning and for looking more often while little was seen;
it is spent within a few seconds.

A Python thread wakes up only when the one that runs lets go of the GIL, by itself (which torch does at each
call) or when the switch interval is over. So a line that holds the GIL loses its last switch interval to the
line after it. While other Python threads do next to nothing, we shorten it from 5 ms to 0.2 ms (`switch_interval`).
Measured on a loop of 3 ms of pure Python and 3 ms without the GIL (2 cores): pure Python had 57 % of the time and
0-3 % of the samples at 5 ms, 56 % and 46 % at 0.5 ms, 53 % and 48 % at 0.2 ms. Where no core is free for us the bias
is larger. So too in a DataLoader's worker, where a decoder that holds the GIL would be counted for the line after it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import torch

from ..record.tape import Tape
from ..record.vocabulary import Kind, Name, code, sample_code
from . import limits, nvml, resources, switch_interval
from .looks import Looks, open_looks
from .session import Session
from .settings import seen
from .sites import Sites

BUDGET_SHARE = 0.003  # of the time; of it a tenth for the readings of once a second
SHORTEST_PERIOD_MS = 5.0
HANDOVER_NS = 50_000  # allowance for what a look costs the training thread beyond our own CPU time
_RESOURCES_EVERY_NS = 1_000_000_000
_OTHERS_EVERY_NS = 1_000_000_000
_CHILDREN_EVERY = 4  # readings; they list and open a file for each child
_FIRST_NOTE_NS = 10_000_000_000
_JOIN_S = 0.5
_FIRST_LOOK_NS = 50_000.0  # what is expected before it was measured
_FIRST_TURN_NS = 500_000.0
_FIRST_READING_NS = 300_000.0
_SHORTEST_TURN_NS, _LONGEST_TURN_NS = 250_000_000, 2_000_000_000
_TURNS_SHARE = 0.3  # of what may be spent: for turns, the rest for looks
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


def start_worker_sampler(session: Session) -> Callable[[], None]:
    """In a DataLoader's worker: see what its main thread runs between taking an index and giving a batch.

    Returns what ends it.
    """
    pid = os.getpid()
    main = threading.get_ident()
    tape = session.stream(f"wsampler-{pid}", limit_segments=8, segment_bytes=1 << 18)
    sampler = Sampler(session, tape, lambda: main, Sites(session, worker_pid=pid), worker=True)
    sampler.start()
    return sampler.stop


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
        self._codes: list[int | None] = []  # of the looks' places: SAMPLE with the number of the site
        self._worker = worker
        self._pid = os.getpid()
        self._looks: Looks | None = None
        self._readings = None if worker else Readings(session, tape)
        self._interval_ns = int(max(session.config.sample_interval_ms, SHORTEST_PERIOD_MS) * 1e6)
        self._began_ns = 0
        self._samples = 0
        self._spent_ns = 0  # CPU time of our thread
        self._device_reads = not worker
        self._rss_missed = worker  # nobody asks a worker's
        self._thread = threading.Thread(target=self._run, name="prof-sampler", daemon=True)

    # life

    def start(self) -> None:
        """Begin to look; ends with the session."""
        self._looks = open_looks(self._worker)
        self._session.on_close(self.stop)
        self._began_ns = time.perf_counter_ns()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and say what it cost. In the child of a fork there is no thread to end."""
        if os.getpid() == self._pid and self._looks is not None:
            self._looks.stop()
            if self._thread is not threading.current_thread():
                self._thread.join(_JOIN_S)
            self._note_share()
            if self._readings is not None:
                self._readings.close()
        switch_interval.put_back()

    def _note_share(self) -> None:
        if not self._worker:
            share = self._cost_so_far_ns() / max(1, time.perf_counter_ns() - self._began_ns)
            self._session.note("sampler", share=share, samples=self._samples)

    def _cost_so_far_ns(self) -> int:
        looks = self._looks.looks if self._looks is not None else 0
        return self._spent_ns + looks * HANDOVER_NS

    def _pace(self, now_ns: int) -> float:
        """Share of the time to come that looks and turns may take."""
        earned_ns = BUDGET_SHARE * (now_ns - self._began_ns + HEAD_START_NS)
        in_hand_ns = min(earned_ns - self._cost_so_far_ns(), BUDGET_SHARE * HEAD_START_NS)  # a machine may have slept
        return max(0.9 * BUDGET_SHARE + in_hand_ns / _SPEND_WITHIN_NS, 0.1 * BUDGET_SHARE)

    def _run(self) -> None:
        try:
            assert self._looks is not None
            self._loop(self._looks)
        except Exception as error:
            self._failed(error)
        finally:
            switch_interval.put_back()

    def _failed(self, error: Exception) -> None:
        """Hooks may be in use on the training thread: have it end the recording at its next step."""
        session = self._session
        if self._worker:
            session.fail("the sampler", error)
        else:
            session.on_step(lambda: session.fail("the sampler", error))

    def _loop(self, looks: Looks) -> None:
        """Look, take a turn, and keep to the budget. The last `sampler` note is the one that counts."""
        look_ns, turn_ns, reading_ns, wait_ns = _FIRST_LOOK_NS, _FIRST_TURN_NS, _FIRST_READING_NS, 0.0
        others, busy = switch_interval.Others(), False
        next_others_ns = 0
        shortest_ns = int(SHORTEST_PERIOD_MS * 1e6)
        next_resources_ns, next_note_ns = self._began_ns, self._began_ns + _FIRST_NOTE_NS
        going = True
        while going and self._session.active:
            looks.thread = max(0, self._target() or 0)
            if time.perf_counter_ns() >= next_others_ns:
                busy = others.busy(looks.thread)
                next_others_ns = time.perf_counter_ns() + _OTHERS_EVERY_NS
            switch_interval.fit(busy, wait_ns)
            now_ns, made, waited_ns = time.perf_counter_ns(), looks.looks, looks.waited_ns
            pace = self._pace(now_ns)
            period_ns = max(self._interval_ns, int((look_ns + HANDOVER_NS) / ((1 - _TURNS_SHARE) * pace)))
            until_ns = now_ns + min(max(_SHORTEST_TURN_NS, int(turn_ns / (_TURNS_SHARE * pace))), _LONGEST_TURN_NS)
            going = looks.run(until_ns, period_ns, shortest_ns)
            made = max(1, looks.looks - made)
            wait_ns += 0.3 * ((looks.waited_ns - waited_ns) / made - wait_ns)
            look_ns += 0.3 * (min(self._cost_ns() / made, 4 * look_ns) - look_ns)
            self._turn(looks)
            # a turn that meets new places costs their notes, once: it is not the measure of what turns cost
            turn_ns += 0.2 * (min(self._cost_ns(), 4 * turn_ns) - turn_ns)
            now_ns = time.perf_counter_ns()
            if self._readings is None or now_ns < next_resources_ns or not going:
                continue
            self._readings.read()
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

    # a turn

    def _turn(self, looks: Looks) -> None:
        """Write what was seen since the last one, and what the training thread kept."""
        samples, met = looks.take()
        for place in met:
            site = self._sites.number(place)
            self._codes.append(sample_code(site) if site is not None else None)
        words: list[int] = []
        for time_ns, place_number, rss_bytes in samples:
            event = self._codes[place_number]
            if event is None:
                continue
            self._samples += 1
            words += (event, time_ns)
            if rss_bytes >= 0:
                words += (_RSS, rss_bytes)
            elif not self._rss_missed:
                self._rss_missed = True
                self._session.note("unobserved", what="rss", why="this system has no /proc/self/statm")
        if words:
            self._tape.write_words(words)
            if self._device_reads and torch.cuda.is_initialized():
                self._read_device()
        if not self._worker:
            self._session.drain()

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


class Readings:
    """What is read once a second."""

    def __init__(self, session: Session, tape: Tape) -> None:
        self._session = session
        self._tape = tape
        self._cores = resources.usable_cores()
        self._limited = limits.core_quota() is not None
        self._count = 0
        self._owner: int | None = None
        self._thread: int | None = None  # its number for the kernel
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
        delay_ns = self._run_delay_ns()
        if delay_ns is not None:
            values.append((Name.TRAINING_RUN_DELAY_NS, delay_ns))
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

    def _run_delay_ns(self) -> int | None:
        """Of the thread that trains, once it is known."""
        owner = self._session.owner
        if owner is not None and owner != self._owner:
            self._owner = owner
            self._thread = next((it.native_id for it in threading.enumerate() if it.ident == owner), None)
        return None if self._thread is None else resources.run_delay_ns(self._thread)

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
