"""Which of a thread's nested events lie around a moment.

In:  starts and ends of events that nest, and moments on the same thread.
Out: the number of the innermost or the outermost event around each moment, -1 for none.
"""

from __future__ import annotations

from collections.abc import Callable
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


def top_level(start: Ints, end: Ints) -> Ints:
    """The events that lie in no other, in time order."""
    levels = _levels(start, end, most=1)
    return levels[0].astype(np.int64) if levels else np.empty(0, dtype=np.int64)


def _levels(start: Ints, end: Ints, most: int = _MOST_LEVELS) -> list[Numbers]:
    """Events by depth, the outermost first; those of one depth follow each other in time."""
    if len(start) == 0:
        return []
    order = np.lexsort((-end, start)).astype(np.int32)
    closed = np.searchsorted(np.sort(end), start[order], side="right")
    # events that were cut off, or of no length, do not nest: they count as if they did
    depth = np.clip(np.arange(len(order)) - closed, 0, most).astype(np.int16)
    del closed
    by_depth = np.argsort(depth, kind="stable").astype(np.int32)
    edges = np.searchsorted(depth[by_depth], np.arange(min(int(depth.max()) + 1, most) + 1))
    return [order[by_depth[low:high]] for low, high in pairwise(edges.tolist())]


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
