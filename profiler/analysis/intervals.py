"""Sets of time: unions, overlaps and differences of many intervals at once.

In:  starts and ends, in any order, overlapping or not; whole nanoseconds.
Out: `Intervals`: disjoint, in order, none of them empty. An interval holds its start and not its end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Intervals:
    """A set of moments."""

    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.start)

    @property
    def total(self) -> int:
        """Its length in all."""
        return int((self.end - self.start).sum())

    @property
    def bounds(self) -> tuple[int, int]:
        """From the first start to the last end; (0, 0) where it is empty."""
        return (int(self.start[0]), int(self.end[-1])) if len(self) else (0, 0)

    def where(self, chosen: Bools) -> Intervals:
        """Some of them."""
        return Intervals(self.start[chosen], self.end[chosen])

    def intersect(self, other: Intervals) -> Intervals:
        """The moments in both."""
        return _covered(self, other, 2)

    def unite(self, other: Intervals) -> Intervals:
        """The moments in either."""
        return _covered(self, other, 1)

    def subtract(self, other: Intervals) -> Intervals:
        """The moments that are not in the other."""
        return self.intersect(other.complement(*self.bounds))

    def complement(self, first: int, last: int) -> Intervals:
        """The moments from `first` to `last` that are not in it."""
        inside = self.clip(first, last)
        return _without_empty(np.append(first, inside.end), np.append(inside.start, last))

    def clip(self, first: int, last: int) -> Intervals:
        """The moments from `first` to `last`."""
        return _without_empty(np.maximum(self.start, first), np.minimum(self.end, last))

    def before(self, at: Ints) -> Ints:
        """For each moment, how much of the set lies before it."""
        if len(self) == 0:
            return np.zeros(len(at), dtype=np.int64)
        until = np.concatenate(([0], np.cumsum(self.end - self.start)))
        place = np.searchsorted(self.start, at, side="right")
        last = np.maximum(place - 1, 0)
        over = np.where(place > 0, np.maximum(self.end[last] - at, 0), 0)
        return until[place] - over

    def within(self, start: Ints, end: Ints) -> Ints:
        """For each window, how much of the set lies in it."""
        return self.before(end) - self.before(start)

    def holds(self, at: Ints) -> Bools:
        """Which moments are in it."""
        if len(self) == 0:
            return np.zeros(len(at), dtype=bool)
        place = np.searchsorted(self.start, at, side="right") - 1
        found: Bools = (place >= 0) & (at < self.end[np.maximum(place, 0)])
        return found


def union(start: Ints, end: Ints) -> Intervals:
    """The moments in any of these intervals; those that end before they begin count for nothing."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    real = end > start
    start, end = start[real], end[real]
    if len(start) == 0:
        return EMPTY
    reach = np.maximum.accumulate(end)
    first = np.flatnonzero(np.concatenate(([True], start[1:] > reach[:-1])))
    return Intervals(start[first], reach[np.append(first[1:] - 1, len(reach) - 1)])


def one(start: int, end: int) -> Intervals:
    """A single interval."""
    return union(np.array([start], dtype=np.int64), np.array([end], dtype=np.int64))


def _covered(first: Intervals, second: Intervals, times: int) -> Intervals:
    """The moments that lie in at least so many of two sets."""
    at = np.concatenate((first.start, second.start, first.end, second.end))
    begins = len(first) + len(second)
    change = np.ones(len(at), dtype=np.int64)
    change[begins:] = -1
    order = np.lexsort((change, at))  # at one moment, ends come before starts
    at = at[order]
    depth = np.cumsum(change[order]) >= times
    edge = np.flatnonzero(np.diff(depth.astype(np.int8), prepend=np.int8(0)))
    pairs = at[edge].reshape(-1, 2)
    joined = _without_empty(pairs[:, 0], pairs[:, 1])
    return union(joined.start, joined.end) if times == 1 else joined


def _without_empty(start: Ints, end: Ints) -> Intervals:
    real = end > start
    return Intervals(start[real], end[real])


EMPTY = Intervals(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
