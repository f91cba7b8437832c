"""Workers: per batch, how long the dataset waited for storage, how long it computed, and how long collate took.

The dataset's fetchers are wrapped in whichever process runs them: a worker (forked or spawned), or the training
process where `num_workers=0`. Around each batch we read the clock, the thread's CPU time and its run-queue
delay; what is left of the wall is time blocked: storage, network, locks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import Counter
from collections.abc import Callable
from threading import get_native_id
from typing import Any

import torch.utils.data._utils.fetch as torch_fetch
import torch.utils.data._utils.worker as torch_worker

from ..record.tape import Tape
from ..record.vocabulary import Kind, Name, code
from .gate import Turn, sometimes
from .session import Session
from .worker_looks import Looks

_COST_SHARE = 0.003  # of the batches' time: where they are short, fewer are measured
_AT_MOST_LONGER = 1.25  # times the one before: what measuring is taken to cost rises slowly, and falls at once
_MAX_SKIP = 255
_FIRST_SKIPS = 8  # at first no more are let pass than this part of those that there were
_NO_LOADER = 0xFFFF


class BatchProbe(Turn):  # type: ignore[misc]
    """Measures the batches that one process makes."""

    def __init__(self, session: Session, tape: Tape, loader: int, cpu_clock: Callable[[], int], looks: Looks) -> None:
        self.session = session
        self.write = tape.write
        self.write_value = tape.write_value
        self.cpu_clock = cpu_clock
        self.run_delay_ns = _run_delay_reader()
        self.reads = _reads_reader()
        self.collating = False
        self.codes = {
            (kind, name): code(kind, name, obj=loader)
            for kind in (Kind.PUSH, Kind.POP)
            for name in (Name.FETCH, Name.COLLATE)
        }
        self.cpu_ns = self.delay_ns = 0
        self.read_bytes = self.read_chars = self.read_calls = 0
        self.entered_ns = self.began_ns = 0
        self.own_ns = 0  # what measuring this batch has taken so far
        self.usual_ns = 0.0  # what measuring one takes: a turn of another program's is in few of them
        self.batches = 0  # made in this process, with those that were not measured
        self.looks = looks

    def begin(self) -> None:
        """A batch begins."""
        self.read_bytes, self.read_chars, self.read_calls = self.reads()
        self.delay_ns = self.run_delay_ns()
        self.cpu_ns = self.cpu_clock()
        self.began_ns = self.session.clock()
        self.own_ns = self.began_ns - self.entered_ns
        self.write(self.codes[Kind.PUSH, Name.FETCH])

    def part(self, kind: Kind, name: Name) -> None:
        """A part of the batch ends: write its event, and what was used since the last one."""
        cpu_ns, delay_ns = self.cpu_clock(), self.run_delay_ns()
        self.write(self.codes[kind, name])
        self.write_value(_CPU, max(0, cpu_ns - self.cpu_ns))
        self.write_value(_DELAY, max(0, delay_ns - self.delay_ns))
        self.cpu_ns, self.delay_ns = cpu_ns, delay_ns

    def end(self, items: int) -> None:
        """The batch is made: say how many are to pass before the next that is measured."""
        made_ns = self.session.clock()
        if self.collating:
            self.collating = False
            self.write(self.codes[Kind.POP, Name.FETCH])
        else:
            self.part(Kind.POP, Name.FETCH)
        read_bytes, read_chars, read_calls = self.reads()
        if read_chars:
            self.write_value(_READ_BYTES, max(0, read_bytes - self.read_bytes))
            self.write_value(_READ_CHARS, max(0, read_chars - self.read_chars))
            self.write_value(_READ_CALLS, max(0, read_calls - self.read_calls))
        self.write_value(_ITEMS, items)
        now_ns = self.session.clock()
        self.own_ns += now_ns - made_ns
        bare_ns = max(1, now_ns - self.entered_ns - self.own_ns)
        self.usual_ns = min(self.own_ns, _AT_MOST_LONGER * self.usual_ns) if self.usual_ns else self.own_ns
        self.skip = min(_MAX_SKIP, self.batches // _FIRST_SKIPS, int(self.usual_ns / (_COST_SHARE * bare_ns)))
        self.batches += 1 + self.skip
        self.looks.batches += self.skip


_CPU = code(Kind.VALUE, Name.CPU_NS)
_DELAY = code(Kind.VALUE, Name.RUN_DELAY_NS)
_READ_BYTES = code(Kind.VALUE, Name.READ_BYTES)
_READ_CHARS = code(Kind.VALUE, Name.READ_CHARS)
_READ_CALLS = code(Kind.VALUE, Name.READ_CALLS)
_ITEMS = code(Kind.VALUE, Name.ITEMS)


class Workers:
    """Which probe serves the process we are in."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.probes: dict[tuple[int, int], BatchProbe] = {}
        self.tape: Tape | None = None
        self.pid = 0
        self.epochs: Counter[int] = Counter()  # by loader, as far as this process or those it was forked from know

    def epoch_begins(self) -> None:
        """The session's starting loader is iterated again."""
        self.epochs[self.session.starting_loader] += 1

    def probe(self, loader: int) -> BatchProbe:
        """The probe of this process for that loader; anew in the child of a fork."""
        pid = os.getpid()
        if self.pid != pid:
            self.pid = pid
            self.tape = self.session.stream(f"worker-{pid}", limit_segments=8, segment_bytes=1 << 18)
            self.probes.clear()
        known = self.probes.get((pid, loader))
        if known is None:
            assert self.tape is not None
            alone = self.session.role == "worker"
            clock = time.process_time_ns if alone else time.thread_time_ns
            looks = Looks(self.session, loader, self.epochs[loader], worker=alone)
            known = self.probes[pid, loader] = BatchProbe(self.session, self.tape, loader, clock, looks)
        return known


def install(session: Session, on_worker: Callable[[], Callable[[], None]]) -> None:
    """Wrap the fetchers, and the workers' main loop.

    `on_worker` runs in each worker as it begins, and what it returns as it ends.
    """
    workers = Workers(session)
    session.epoch_listeners.append(workers.epoch_begins)
    replace = session.patches.replace
    replace(torch_fetch._BaseDatasetFetcher, "__init__", _with_probe(session, workers))
    for fetcher in (torch_fetch._MapDatasetFetcher, torch_fetch._IterableDatasetFetcher):
        replace(fetcher, "fetch", sometimes(fetcher.fetch, _timed_fetch(session, workers, fetcher.fetch), session.key))
    replace(torch_worker, "_worker_loop", _worker_loop(session, torch_worker._worker_loop, on_worker))


def _with_probe(session: Session, workers: Workers) -> Any:
    original = torch_fetch._BaseDatasetFetcher.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if not session.active:
            return
        try:
            self._trainprof_loader = session.starting_loader
        except Exception as error:
            session.fail("data loading", error)

    return __init__


def _timed_collate(session: Session, probe: BatchProbe, original: Any) -> Any:
    """Stands in a fetcher for its `collate_fn` while a batch is measured."""
    clock = session.clock

    @functools.wraps(original, updated=())
    def collate(data: Any) -> Any:
        try:
            began_ns = clock()
            probe.looks.items(data)
            probe.part(Kind.PUSH, Name.COLLATE)
            probe.own_ns += clock() - began_ns
        except Exception as error:
            session.fail("collate", error)
        batch = original(data)
        if session.active:
            try:
                began_ns = clock()
                probe.part(Kind.POP, Name.COLLATE)
                probe.collating = True
                probe.looks.batch(batch)
                probe.own_ns += clock() - began_ns
            except Exception as error:
                session.fail("collate", error)
        return batch

    return collate


def _timed_fetch(session: Session, workers: Workers, original: Any) -> Any:
    @functools.wraps(original)
    def fetch(self: Any, possibly_batched_index: Any) -> Any:
        if not session.active:
            return original(self, possibly_batched_index)
        try:
            probe = workers.probe(getattr(self, "_trainprof_loader", _NO_LOADER))
            setattr(self, session.key, probe)
            probe.entered_ns = session.clock()
            probe.collating = False
            probe.looks.before(possibly_batched_index)
            probe.begin()
            collate_fn = self.collate_fn
            self.collate_fn = _timed_collate(session, probe, collate_fn)
        except Exception as error:
            session.fail("data loading", error)
            return original(self, possibly_batched_index)
        try:
            batch = original(self, possibly_batched_index)
        finally:
            self.collate_fn = collate_fn
        if session.active:
            try:
                probe.end(_items(possibly_batched_index))
            except Exception as error:
                session.fail("data loading", error)
        return batch

    return fetch


def _items(index: Any) -> int:
    try:
        return len(index)
    except TypeError:
        return 1


def _worker_loop(session: Session, original: Any, on_worker: Callable[[], Callable[[], None]]) -> Any:
    @functools.wraps(original)
    def _worker_loop(*args: Any, **kwargs: Any) -> None:
        ended: Callable[[], None] | None = None
        if session.active:
            try:
                session.become_worker(os.getppid())
                ended = on_worker()
            except Exception as error:
                session.fail("starting a worker", error)
        try:
            original(*args, **kwargs)
        finally:
            if ended is not None:
                with contextlib.suppress(Exception):
                    ended()

    return _worker_loop


def _run_delay_reader() -> Callable[[], int]:
    """Reads how long this thread has waited for a core so far, in ns; 0 where the kernel does not say."""
    try:
        descriptor = os.open(f"/proc/self/task/{get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        os.pread(descriptor, 80, 0).split()[1]
    except (OSError, IndexError):
        return lambda: 0
    return lambda: int(os.pread(descriptor, 80, 0).split()[1])


def _reads_reader() -> Callable[[], tuple[int, int, int]]:
    """Reads the bytes that came from storage and through read(2) so far, and the calls; zeros where they are hidden."""
    try:
        descriptor = os.open(f"/proc/self/task/{get_native_id()}/io", os.O_RDONLY | os.O_CLOEXEC)

        def read() -> tuple[int, int, int]:
            words = os.pread(descriptor, 256, 0).split()
            return int(words[9]), int(words[1]), int(words[5])

        read()
    except (OSError, IndexError, ValueError):
        return lambda: (0, 0, 0)
    return read
