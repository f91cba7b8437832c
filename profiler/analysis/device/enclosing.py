"""Which of a thread's nested events lie around a moment.

In:  starts and ends of events that nest, and moments on the same thread.
Out: the number of the innermost or the outermost event around each moment, -1 for none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from profiler.analysis.intervals import Bools, Ints
from profiler.record.trace.recording import HostEvents, Numbers

MOST_TRACKS = 64  # those with most moments: more threads than that launch nothing that matters
_MOST_LEVELS = 512  # deeper calls are told by what is around them


def innermost(start: Ints, end: Ints, at: Ints) -> Ints:
    """The innermost event around each moment."""
    found = np.full(len(at), -1, dtype=np.int64)
    for level in _levels(start, end):
        here = _around(start, end, level, at)
        found = np.where(here >= 0, here, found)
    return found


def outermost(start: Ints, end: Ints, at: Ints) -> Ints:
    """The outermost event around each moment."""
    levels = _levels(start, end, most=1)
    return _around(start, end, levels[0], at) if levels else np.full(len(at), -1, dtype=np.int64)


def parents(start: Ints, end: Ints) -> Ints:
    """For each event the one right around it, -1 for none."""
    found = np.full(len(start), -1, dtype=np.int64)
    for outer, inner in pairwise(_levels(start, end)):
        found[inner] = _around(start, end, outer, start[inner])
    return found


@dataclass(frozen=True, slots=True)
class Owners:
    """Which event a thread was in, the innermost, from each edge to the next."""

    edge: Ints  # moments, in order
    owner: Ints  # number of the event, -1 for none
    around: Ints  # per event the one around it, -1 for none

    def at(self, when: Ints) -> Ints:
        """The innermost event around each moment."""
        if len(self.edge) == 0:
            return np.full(len(when), -1, dtype=np.int64)
        place = np.searchsorted(self.edge, when, side="right") - 1
        return np.where(place >= 0, self.owner[np.maximum(place, 0)], -1)


def owners(start: Ints, end: Ints) -> Owners:
    """The events of one thread as a partition of its time; those of no length own nothing.

    An event that outlives the one around it, as rounded times may say, ends with it.
    """
    count, chosen = len(start), np.flatnonzero(end > start)
    start, end = start[chosen], end[chosen].copy()
    around = np.full(len(start), -1, dtype=np.int64)
    depth = np.zeros(len(start), dtype=np.int64)
    for number, (outer, inner) in enumerate(pairwise(_levels(start, end)), start=1):
        depth[inner] = number
        found = _around(start, end, outer, start[inner])
        around[inner] = found
        end[inner] = np.where(found >= 0, np.minimum(end[inner], end[np.maximum(found, 0)]), end[inner])
    own_number = np.arange(len(start))
    at = np.concatenate((end, start))
    # at one moment ends come first, the innermost before the others; of those that start, the outermost
    kind = np.repeat(np.array([0, 1], dtype=np.int8), len(start))
    order = np.lexsort((np.concatenate((-depth, depth)), kind, at))
    own = np.concatenate((around, own_number))[order]
    whole = np.full(count, -1, dtype=np.int64)
    if len(chosen):
        whole[chosen] = np.where(around >= 0, chosen[np.maximum(around, 0)], -1)
        own = np.where(own >= 0, chosen[np.maximum(own, 0)], -1)
    return Owners(at[order], own, whole)


def top_level(start: Ints, end: Ints) -> Ints:
    """The events that lie in no other, in time order."""
    levels = _levels(start, end, most=1)
    return levels[0].astype(np.int64) if levels else np.empty(0, dtype=np.int64)


def _levels(start: Ints, end: Ints, most: int = _MOST_LEVELS) -> list[Numbers]:
    """Events by depth, the outermost first; those of one depth follow each other in time."""
    if len(start) == 0:
        return []
    order = _outer_first(start, end)
    closed = np.searchsorted(np.sort(end), start[order], side="right")
    # events that were cut off, or of no length, do not nest: they count as if they did
    depth = np.clip(np.arange(len(order)) - closed, 0, most).astype(np.int16)
    del closed
    by_depth = np.argsort(depth, kind="stable").astype(np.int32)
    edges = np.searchsorted(depth[by_depth], np.arange(min(int(depth.max()) + 1, most) + 1))
    return [order[by_depth[low:high]] for low, high in pairwise(edges.tolist())]


def _outer_first(start: Ints, end: Ints) -> Numbers:
    """By time; of events that start at one moment, the longest first."""
    later = start[1:] > start[:-1]
    if bool((later | ((start[1:] == start[:-1]) & (end[1:] <= end[:-1]))).all()):
        return np.arange(len(start), dtype=np.int32)  # as threads write them; sorting costs twenty times as much
    return np.lexsort((-end, start)).astype(np.int32)


def _around(start: Ints, end: Ints, level: Numbers, at: Ints) -> Ints:
    if len(level) == 0:
        return np.full(len(at), -1, dtype=np.int64)
    place = np.searchsorted(start[level], at, side="right") - 1
    chosen = level[np.maximum(place, 0)]
    return np.where((place >= 0) & (at < end[chosen]), chosen.astype(np.int64), -1)


def by_track(
    events: HostEvents,
    among: Bools,
    at: Ints,
    track: Numbers,
    pick: Callable[[Ints, Ints, Ints], Ints],
) -> Ints:
    """For moments on several tracks, the number of the event that `pick` finds among some on the moment's track."""
    found = np.full(len(at), -1, dtype=np.int64)
    for number in busiest(track[track >= 0]):
        own = np.flatnonzero((events.track == number) & among)
        asked = np.flatnonzero(track == number)
        here = pick(events.start[own], events.end[own], at[asked])
        if len(own):
            found[asked] = np.where(here >= 0, own[np.maximum(here, 0)], -1)
    return found


def busiest(track: Numbers) -> list[int]:
    """The tracks that come most often."""
    tracks, counts = np.unique(track, return_counts=True)
    chosen: list[int] = tracks[np.argsort(-counts, kind="stable")][:MOST_TRACKS].tolist()
    return chosen
