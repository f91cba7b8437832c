"""Why the device stood idle.

In:  when the device worked, when each piece of work was launched, and when the host waited for what.
Out: for each cause the moments of idleness that it explains; together they are the device's idle time.

A gap whose next work was launched before it began is nobody's on the host: *unknown*. Of any other, the time in which
the loop waited for its batch is *data_wait*, and that in which the host waited for other hosts *communication*. A host
that waits for the device loses its lead: what it lost in a wait, or in several with no launch between them (the time
for which the device was busy during them), is missing right afterwards, so that so much of the gap goes to those
waits: *sync*, or *copy* where the host had to wait to copy from pageable memory. In the rest the host was late: *host*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiler.analysis.device.copies import Blocked
from profiler.analysis.device.launches import Launches
from profiler.analysis.intervals import Intervals, Ints, union
from profiler.record.trace.recording import Calls, DeviceEvents

BESIDE_SHARE = 0.1  # of the wait for data: microseconds between queued kernels in it are not worth parting from it


@dataclass(frozen=True, slots=True)
class Gaps:
    """Idle time, by whether the work that ends it was in the queue when it began."""

    starved: Intervals  # it was not
    launched: Ints  # when it was, for each of these
    queued: Intervals
    untold: Intervals  # its launch is not in the file, or none follows


def gaps_of(busy: Intervals, window: tuple[int, int], device: DeviceEvents, launches: Launches) -> Gaps:
    """The idle time within the window."""
    gaps = busy.complement(*window)
    launched = _next_launch(gaps, device, launches)
    late, untold = launched > gaps.start, launched < 0
    starved, queued, without = (
        Intervals(gaps.start[which], gaps.end[which]) for which in (late, ~late & ~untold, untold)
    )
    return Gaps(starved, launched[late], queued, without)


@dataclass(frozen=True, slots=True)
class Leads:
    """What the host would not have lost, had it not waited for the device before."""

    moments: dict[str, Intervals]  # idle, by cause
    after: Ints  # of that of *sync*, behind each of the blocked calls; nanoseconds


def idle_causes(
    gaps: Gaps, leads: Leads, blocked: Blocked, data_wait: Intervals, communication: Intervals
) -> dict[str, Intervals]:
    """Idle time by cause (`device_facts.IDLE_CAUSES`)."""
    waiting = gaps.starved.unite(gaps.untold).intersect(data_wait)
    others = gaps.queued.unite(gaps.untold.subtract(data_wait))
    beside = gaps.queued.intersect(data_wait)
    if beside.total < BESIDE_SHARE * waiting.total:
        waiting, others = waiting.unite(beside), others.subtract(beside)
    found = {"data_wait": waiting, "unknown": others}
    rest = gaps.starved.subtract(data_wait)
    for cause, moments in (
        ("communication", communication),
        ("sync", blocked.syncs),
        ("copy", blocked.staging),
    ):
        found[cause] = rest.intersect(moments)
        rest = rest.subtract(moments)
    for cause, moments in leads.moments.items():
        found[cause] = found[cause].unite(rest.intersect(moments))
        rest = rest.subtract(moments)
    found["host"] = rest
    return found


def _next_launch(gaps: Intervals, device: DeviceEvents, launches: Launches) -> Ints:
    """When the work that ends each gap was launched; -1 where that is not in the file, or none follows.

    Of several pieces that begin at once, the first to have been launched.
    """
    order = np.lexsort((launches.start, device.start))
    begins = device.start[order]
    place = np.searchsorted(begins, gaps.end, side="left")
    inside = place < len(begins)
    found = np.full(len(gaps), -1, dtype=np.int64)
    found[inside] = launches.start[order[place[inside]]]
    return found


def lost_leads(whole: Gaps, busy: Intervals, launches: Launches, calls: Calls, blocked: Blocked) -> Leads:
    """What waits for the device made the host lose of each gap."""
    gaps, launched = whole.starved, whole.launched
    after = np.zeros(len(blocked.call), dtype=np.int64)
    if len(blocked.call) == 0 or len(gaps) == 0:
        return Leads({}, after)
    start, end = calls.start[blocked.call], calls.end[blocked.call]
    order = np.argsort(end, kind="stable")
    start, end = start[order], end[order]
    asked = np.sort(launches.start[launches.known])
    before = np.searchsorted(asked, launched, side="left") - 1
    previous = np.where(before >= 0, asked[np.maximum(before, 0)], -1)
    # between these two the host did nothing but wait: a copy of a result is a wait that is launched itself, and is
    # followed by one for the stream
    first = np.searchsorted(end, previous, side="left")
    last = np.searchsorted(end, launched, side="right") - 1
    applies = last >= first
    first, last = np.minimum(first, len(end) - 1), np.maximum(last, 0)
    began, done = np.minimum(start[first], previous), end[last]
    begin = np.maximum(gaps.start, done)
    found = {}
    for cause, moments in (("sync", blocked.syncs), ("copy", blocked.staging.subtract(blocked.syncs))):
        budget = moments.intersect(busy).within(began, np.maximum(began, done))
        until = np.minimum(begin + budget, gaps.end)
        found[cause] = union(begin[applies], until[applies])
        if cause == "sync":
            np.add.at(after, order[last[applies]], np.maximum(until - begin, 0)[applies])
        begin = np.maximum(begin, until)
    return Leads(found, after)
