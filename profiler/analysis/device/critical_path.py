"""What sets the length of a step: the chain of work that it can't be shorter than.

In:  the step's window, the device's work with its launches, and the host's waits for the device.
Out: `walk`: the window cut into pieces, each with what it lies on.

The chain is followed backwards from the end of the step. A host that returns from a wait had waited for the work that
ended last within it. Work began when its stream was done with what came before, or, where it was asked for only after
that, when the host launched it. Work that began right when another stream's had ended, and for which neither of the two
accounts, had waited for that by an event. What is not on the chain can get faster without making the step shorter.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler.analysis.intervals import Intervals, Ints

HOST, LAUNCH, UNKNOWN = -1, -2, -3  # what a piece lies on; numbers from 0 on are pieces of the device's work
EVENT_NS = 20_000  # work that waits for another stream's begins so soon after it
LATENCY_NS = 100_000  # from a launch to its work: what takes longer has another reason, which is not known

Piece = tuple[int, int, int]  # start, end, what


@dataclass(frozen=True, slots=True)
class Queue:
    """Pieces of the device's work, in the order in which they ended."""

    number: Ints  # of the device event
    start: list[int]
    end: list[int]
    launched: list[int]  # -1 where that is not in the file
    launch_end: list[int]
    before: list[int]  # the one before it on its stream, -1 for none


def queue_of(start: Ints, end: Ints, stream: Ints, launched: Ints, launch_end: Ints, window: tuple[int, int]) -> Queue:
    """The work of all streams that has a part in a window; `stream` numbers them."""
    inside = np.flatnonzero((end > window[0]) & (start < window[1]))
    inside = inside[np.lexsort((start[inside], end[inside]))]
    rank = np.arange(len(inside))
    in_stream = np.lexsort((rank, start[inside], stream[inside]))
    before = np.full(len(inside), -1, dtype=np.int64)
    same = stream[inside][in_stream][1:] == stream[inside][in_stream][:-1]
    before[in_stream[1:][same]] = in_stream[:-1][same]
    before[before >= rank] = -1  # work of one stream that overlaps otherwise than its starts say
    return Queue(
        inside,
        start[inside].tolist(),
        end[inside].tolist(),
        launched[inside].tolist(),
        np.maximum(launched, launch_end)[inside].tolist(),
        before.tolist(),
    )


def walk(window: tuple[int, int], queue: Queue, waits: Intervals, from_device: bool = False) -> list[Piece]:
    """The path through a window, from its end to its start: pieces without gaps, latest first.

    It begins with the host, or with the work that ends there where the step is the device's own.
    """
    path = _Path(window)
    wait_start, wait_end = waits.start.tolist(), waits.end.tolist()
    left = len(queue.end)  # work that is not yet on the path, or after it
    at: int | None = None  # on the device: the piece of work that the path has come to the end of
    if from_device and left:
        last = bisect_right(queue.end, window[1]) - 1
        at = last if last >= 0 and queue.end[last] == window[1] else None
    while path.at > window[0]:
        if at is None:
            at = _waited_for(path, queue, wait_start, wait_end, left)
            continue
        left = at
        at = _cause(path, queue, at)
    return path.pieces


class _Path:
    """The pieces so far, and the moment that they reach back to."""

    def __init__(self, window: tuple[int, int]) -> None:
        self.first, self.at = window
        self.pieces: list[Piece] = []

    def back_to(self, moment: int, what: int) -> None:
        moment = max(min(moment, self.at), self.first)
        if moment < self.at:
            self.pieces.append((moment, self.at, what))
            self.at = moment


def _waited_for(path: _Path, queue: Queue, starts: Sequence[int], ends: Sequence[int], left: int) -> int | None:
    """Follow the host back to its last wait: the work that it waited for, None where the wait was for nothing."""
    number = bisect_left(starts, path.at) - 1
    if number < 0:
        path.back_to(path.first, HOST)
        return None
    began, until = starts[number], min(ends[number], path.at)
    work = min(bisect_right(queue.end, until), left) - 1
    if work < 0 or queue.end[work] <= began:
        path.back_to(began, HOST)
        return None
    path.back_to(queue.end[work], HOST)
    return work


def _cause(path: _Path, queue: Queue, at: int) -> int | None:
    """Follow a piece of work back to what let it begin: another one, or the host (None)."""
    path.back_to(queue.start[at], at)
    began, launched, before = queue.start[at], queue.launched[at], queue.before[at]
    done = min(queue.end[before], began) if before >= 0 else -1
    ready = max(done, queue.launch_end[at] if launched >= 0 else -1)
    other = min(bisect_right(queue.end, began), at) - 1
    if other >= 0 and ready < queue.end[other] and began - ready > EVENT_NS >= began - queue.end[other]:
        path.back_to(queue.end[other], UNKNOWN)
        return other
    if before >= 0 and done >= launched:
        path.back_to(done, UNKNOWN)
        return before
    if launched >= 0:
        late = min(queue.launch_end[at], began)
        path.back_to(late, LAUNCH if began - late <= LATENCY_NS else UNKNOWN)
        path.back_to(launched, HOST)
        return None
    if other >= 0:
        path.back_to(queue.end[other], UNKNOWN)
        return other
    path.back_to(path.first, UNKNOWN)
    return None
