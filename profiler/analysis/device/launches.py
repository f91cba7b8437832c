"""From a launch on the host to the work on the device.

In:  runtime calls and device events of one process.
Out: `Launches`: for each device event the call that asked for it.

The link is the correlation number that both carry. Events without one, and those of a recording without calls, are
linked by the number of the operator that they name. Work that was asked for before the recording began has no call in
the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiler.analysis.intervals import Bools, Ints
from profiler.record.trace.recording import Calls, DeviceEvents, Numbers, Operators

EARLY_NS = 1_000_000  # clocks of host and device differ by less: work that begins earlier belongs to another call


@dataclass(frozen=True, slots=True)
class Launches:
    """Per device event; -1 where no launch is in the file."""

    call: Ints  # number of the runtime call, -1 also where only the operator is known
    start: Ints
    end: Ints
    track: Numbers

    @property
    def known(self) -> Bools:
        """Which events have a launch."""
        found: Bools = self.start >= 0
        return found


def launches_of(device: DeviceEvents, calls: Calls, operators: Operators) -> Launches:
    """Link the events."""
    call = matching(device.correlation, calls.correlation, calls.start)
    call[(call >= 0) & (device.start < _at(calls.start, call) - EARLY_NS)] = -1
    linked = call >= 0
    start = np.where(linked, _at(calls.start, call), -1)
    end = np.where(linked, _at(calls.end, call), -1)
    track = np.where(linked, _at(calls.track, call), -1).astype(np.int32)
    alone = ~linked & ((device.correlation < 0) | (len(calls) == 0)) & (device.external > 0)
    if bool(alone.any()):
        found = matching(np.where(alone, device.external, -1), operators.external, operators.start)
        found[(found >= 0) & (device.start < _at(operators.start, found) - EARLY_NS)] = -1
        by_name = found >= 0
        start = np.where(by_name, _at(operators.start, found), start)
        end = np.where(by_name, _at(operators.start, found), end)
        track = np.where(by_name, _at(operators.track, found), track).astype(np.int32)
    return Launches(call, start, end, track)


def matching(wanted: Ints, given: Ints, start: Ints) -> Ints:
    """For each number the first event that carries it; -1 where none does, and for numbers below 0."""
    order = np.lexsort((start, given))
    ranked = given[order]
    place = np.searchsorted(ranked, wanted, side="left")
    inside = place < len(ranked)
    found = np.full(len(wanted), -1, dtype=np.int64)
    same = np.zeros(len(wanted), dtype=bool)
    same[inside] = ranked[place[inside]] == wanted[inside]
    same &= wanted >= 0
    found[same] = order[place[same]]
    return found


def _at(values: Ints | Numbers, index: Ints) -> Ints:
    """Values at these places; anything where a place is -1."""
    if len(values) == 0:
        return np.zeros(len(index), dtype=np.int64)
    return values[np.maximum(index, 0)].astype(np.int64)


def queue_depth(device: DeviceEvents, launches: Launches) -> Ints:
    """At each launch, how many launched pieces of work were not finished."""
    known = launches.known
    asked, done = np.sort(launches.start[known]), np.sort(device.end[known])
    at = launches.start[known]
    return np.searchsorted(asked, at, side="left") - np.searchsorted(done, at, side="right")
