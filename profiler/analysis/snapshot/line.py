"""Memory over the events, in few points.

In:  the events and what was held and reserved after each.
Out: `MemoryLine`: of each stretch of events, the fullest moment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from profiler.analysis.snapshot.replay import Lifetime
from profiler.analysis.snapshot_facts import MemoryLine
from profiler.record.snapshot import Event

POINTS = 500


def line(
    events: Sequence[Event],
    lifetimes: Sequence[Lifetime],
    categories: Sequence[str],
    held: Sequence[int],
    reserved: Sequence[int],
) -> MemoryLine:
    """At most `POINTS` points; the peak is among them."""
    stride = math.ceil(len(events) / POINTS)
    chosen = [
        max(range(first, min(first + stride, len(events))), key=held.__getitem__)
        for first in range(0, len(events), stride)
    ]
    times = [events[index].time_us for index in chosen]
    start = next((event.time_us for event in events if event.time_us is not None), None)
    timed = start is not None and all(time is not None for time in times)
    return MemoryLine(
        tuple((time - start) / 1e6 for time in times if time is not None and start is not None) if timed else (),
        tuple(chosen),
        tuple(held[index] for index in chosen),
        tuple(reserved[index] for index in chosen),
        _by_category(chosen, lifetimes, categories, len(events)),
    )


def _by_category(
    chosen: Sequence[int], lifetimes: Sequence[Lifetime], categories: Sequence[str], events: int
) -> dict[str, tuple[int, ...]]:
    changes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for it, category in zip(lifetimes, categories, strict=True):
        changes[category][max(it.began, 0)] += it.size
        if it.ended is not None:
            changes[category][it.ended] -= it.size
    made = {}
    for category, change in changes.items():
        held, at, row = 0, 0, []
        moments = sorted(change)
        for index in chosen:
            while at < len(moments) and moments[at] <= index:
                held += change[moments[at]]
                at += 1
            row.append(held)
        made[category] = tuple(row)
    return made
