"""Write events to a stream of memory-mapped segments.

In:  codes (`vocabulary.code`) and times or values: many at once, or one call per event.
Out: `<stream>-<seq>.tape` files of 1 MiB that hold every event up to the last one written, whatever kills
     the process: the kernel owns the pages.

A segment is reserved on disk before it is mapped, so that a full disk is an error at the roll-over, which we
can bear, and not a SIGBUS at a store. Standard library only.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import get_native_id

from .layout import tape_path
from .vocabulary import EVENT_BYTES, HEADER_BYTES, SEGMENT_BYTES, TAPE_MAGIC

_HEADER = struct.Struct("<8sIIIIQQ")
_FIRST_WORD = HEADER_BYTES // 8
_SCRATCH_WORDS = 1 << 10
_LONGEST_KEPT_NS = 86_400_000_000_000  # a day: what is further off is no time of this clock


def open_segment(path: Path, seq: int, size_bytes: int, first_ns: int | None = None) -> memoryview:
    """Create a segment and map it as 64-bit words. Raises OSError when the disk has no room for it.

    Its header says when it begins: now, or at `first_ns`, an event that was kept elsewhere until now.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size_bytes)
        else:
            os.truncate(descriptor, size_bytes)
        mapped = mmap.mmap(descriptor, size_bytes)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    now_ns = time.perf_counter_ns()
    kept_ns = now_ns - first_ns if first_ns is not None and 0 < now_ns - first_ns < _LONGEST_KEPT_NS else 0
    _HEADER.pack_into(
        mapped, 0, TAPE_MAGIC, os.getpid(), get_native_id(), seq, 0, now_ns - kept_ns, time.time_ns() - kept_ns
    )
    return memoryview(mapped).cast("Q")


class Tape:
    """One stream of events, written by one thread at a time.

    `write(code)` stamps the time, `write_value(code, value)` stores the value given, `write_words(words)` stores
    many events at once. Nothing touches the disk before the first event. After `kill()` the calls go nowhere.
    """

    def __init__(
        self,
        directory: Callable[[], Path],
        stream: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        limit_segments: int = 128,
        clock: Callable[[], int] = time.perf_counter_ns,
        on_error: Callable[[OSError], None] | None = None,
        on_roll: Callable[[int], None] | None = None,
    ) -> None:
        self._directory = directory
        self._stream = stream
        self._segment_bytes = segment_bytes
        self._limit_segments = limit_segments
        self._on_error = on_error
        self._on_roll = on_roll
        self._seq = 0
        self.dead = False
        self.write, self.write_value, self.write_words, self._discard = _writer(self._next_segment, clock)

    def _next_segment(self, first_ns: int | None) -> memoryview:
        if self.dead:
            return scratch()
        directory = self._directory()
        try:
            path = tape_path(directory, self._stream, self._seq)
            view = open_segment(path, self._seq, self._segment_bytes, first_ns)
        except OSError as error:
            self.dead = True
            if self._on_error:
                self._on_error(error)
            return scratch()
        oldest = self._seq - self._limit_segments
        if oldest >= 0:
            tape_path(directory, self._stream, oldest).unlink(missing_ok=True)
        self._seq += 1
        if self._on_roll:
            self._on_roll(self._seq)
        return view

    def kill(self) -> None:
        """Stop recording: what is on disk stays."""
        self.dead = True
        self._discard()

    def restart(self) -> None:
        """Begin again at segment 0 in what `directory()` then says; for the child of a fork."""
        self.dead = False
        self._seq = 0
        self._discard()


def scratch() -> memoryview:
    """Words that nobody reads."""
    return memoryview(bytearray(_SCRATCH_WORDS * 8)).cast("Q")


def _writer(
    next_segment: Callable[[int | None], memoryview], clock: Callable[[], int]
) -> tuple[Callable[[int], None], Callable[[int, int], None], Callable[[Sequence[int]], None], Callable[[], None]]:
    """The write calls as closures: a cell variable is the cheapest state that Python has.

    The slot is taken before it is filled: a garbage collection or a signal handler that writes in between
    then uses the next one. A slot left empty by an exception at that very point is skipped by the reader.
    """
    view = scratch()
    at = end = 0

    def roll(first_ns: int | None = None) -> None:
        nonlocal view, at, end
        view = next_segment(first_ns)
        at, end = _FIRST_WORD, len(view) - EVENT_BYTES // 8 + 1

    def write_value(code: int, value: int) -> None:
        nonlocal at
        if at >= end:
            roll()
        slot = at
        at = slot + 2
        view[slot] = code
        view[slot + 1] = value

    def write(code: int) -> None:
        write_value(code, clock())

    def write_words(words: Sequence[int]) -> None:
        nonlocal at
        left = array("Q", words)
        while left:
            if at >= end:
                roll(left[1])
            count = min(len(left), (len(view) - at) // 2 * 2)
            view[at : at + count] = left[:count]
            at += count
            del left[:count]

    def discard() -> None:
        nonlocal at, end
        at = end = 0

    return write, write_value, write_words, discard
