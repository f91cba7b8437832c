"""Read one large trace by several processes of this machine.

In:  the blocks of a `Source`.
Out: events in a `JoinedCollector`, the same as one process reads.

This process unpacks the file and cuts it between two events; copies of it decode the stretches, which they find in
memory that all of them share, and give back columns, which are appended in the order of the file.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from mmap import mmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from profiler.record.trace.event import Event
from profiler.record.trace.parts import JoinedCollector, Numbers, Part
from profiler.record.trace.split import Document, after_head, batches, last, last_border, whole
from profiler.record.trace.stream import BLOCK_BYTES, Source

FEWEST_BYTES = 16 << 20  # of a file, packed tenfold or not, below which it is read before copies would have begun
_PACKED = 10
MOST_PROCESSES = 6  # one can unpack and cut for no more
_STRETCH_BYTES = 1 << 20
_SLOT_BYTES = 2 * _STRETCH_BYTES
_AHEAD = 3  # stretches for each process to have in hand

Answer = tuple[Part, int, int] | None  # the part, events seen, events that could not be read; None: can't be read so


class UnpartedError(Exception):
    """The file can't be read in parts: by one process it can."""


def processes_for(path: Path) -> int:
    """How many processes are worth while for a file; 1 where copies can't be made, or are copies themselves."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            size *= _PACKED if file.read(2) == b"\x1f\x8b" else 1
    except OSError:
        return 1
    alone = multiprocessing.parent_process() is None and threading.active_count() == 1
    if size < FEWEST_BYTES or not sys.platform.startswith("linux") or not alone:
        return 1
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def read_parts(
    source: Source, document: Document, collector: JoinedCollector, processes: int
) -> Generator[int, None, None]:
    """Read the file; says after each stretch how many more events were seen. Raises UnpartedError, ProfError."""
    blocks = iter(source)
    cut = _Cut(after_head(blocks, document, str(source.path)), blocks)
    first = next(cut, None)
    if first is not None:
        for events in _whole(first, document):  # tells the copies when the events are
            collector.add(events)
            yield len(events)
        if not collector.kept:
            raise UnpartedError
    try:
        made = _Copies(collector, processes)
    except OSError as error:  # no room for another process, or for what they share
        raise UnpartedError from error
    with made as copies:
        for stretch in cut:
            if copies.full:
                yield copies.next_answer(document)
            copies.give(stretch)
        while copies.waiting:
            yield copies.next_answer(document)
    events = last(cut.left, False, document)
    collector.add(events)
    yield len(events)


class _Cut:
    """Stretches of text, each of which ends between two events; then `left` is what is left."""

    def __init__(self, first: bytes, blocks: Iterator[bytes]) -> None:
        self.left = first
        self._blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        parts, size = [self.left], len(self.left)
        for block in self._blocks:
            parts.append(block)
            size += len(block)
            if size >= _STRETCH_BYTES:
                text = b"".join(parts)
                border = last_border(text)[0]
                if border is None or border > _SLOT_BYTES:
                    raise UnpartedError
                self.left = text[border:]
                return text[:border]
        self.left = b"".join(parts)
        raise StopIteration


class _Copies:
    """The processes that decode, and the stretches that they have in hand."""

    def __init__(self, collector: JoinedCollector, processes: int) -> None:
        self._collector = collector
        self._shared = mmap(-1, _AHEAD * processes * _SLOT_BYTES)
        self._pipes: list[Connection] = []
        self._numbers: list[Numbers] = []
        self._processes: list[Any] = []
        self._given = 0
        self.waiting: deque[int] = deque()  # stretches that were given and not answered
        context: Any = multiprocessing.get_context("fork")
        for _ in range(processes):
            ours, theirs = context.Pipe()
            self._numbers.append(collector.numbers())
            process = context.Process(target=_decode, args=(collector, self._shared, ours, theirs), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: numpy's stand idle
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> _Copies:
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()
        self._shared.close()

    @property
    def full(self) -> bool:
        """Whether an answer has to be taken before another stretch can be given."""
        return len(self.waiting) == _AHEAD * len(self._pipes)

    def give(self, stretch: bytes) -> None:
        """Have a stretch decoded."""
        number = self._given
        self._given += 1
        begin = number % (_AHEAD * len(self._pipes)) * _SLOT_BYTES
        self._shared[begin : begin + len(stretch)] = stretch
        self._send(number, (begin, len(stretch)))
        self.waiting.append(number)

    def _send(self, number: int, what: tuple[int, int]) -> None:
        try:
            self._pipes[number % len(self._pipes)].send(what)
        except OSError as error:
            raise UnpartedError from error

    def next_answer(self, document: Document) -> int:
        """Append the oldest stretch in hand; the number of its events."""
        which = self.waiting.popleft() % len(self._pipes)
        try:
            answer: Answer = self._pipes[which].recv()
        except (EOFError, OSError) as error:
            raise UnpartedError from error
        if answer is None:
            raise UnpartedError
        part, seen, damaged = answer
        self._collector.add_part(part, self._numbers[which])
        document.damaged += damaged
        return seen


def _decode(collector: JoinedCollector, shared: mmap, theirs: Connection, pipe: Connection) -> None:
    """What a copy does until its pipe is closed."""
    theirs.close()
    collector.take_part()  # what was read before the copy was made is not its own
    try:
        while True:
            begin, length = pipe.recv()
            pipe.send(_answer(collector, shared[begin : begin + length]))
    except (EOFError, OSError, KeyboardInterrupt):
        pass


def _answer(collector: JoinedCollector, stretch: bytes) -> Answer:
    document = Document()
    seen = 0
    try:
        for events in _whole(stretch, document):
            collector.add(events)
            seen += len(events)
    except UnpartedError:
        return None
    return collector.take_part(), seen, document.damaged


def _whole(stretch: bytes, document: Document) -> Iterator[list[Event]]:
    blocks = (stretch[begin : begin + BLOCK_BYTES] for begin in range(0, len(stretch), BLOCK_BYTES))
    try:
        yield from batches(whole(blocks, document))
    except ValueError as error:
        raise UnpartedError from error
