"""Why the device stood idle.

In:  when the device worked, when each piece of work was launched, and when the host waited for what.
Out: for each cause the moments of idleness that it explains; together they are the device's idle time.

Idle time in which the loop waited for its batch is *data_wait*. Otherwise a gap whose next work was launched before it
began is nobody's on the host: *unknown*. Of any other, the time in which the host waited for other hosts is
*communication*. A host that waits for the device loses its lead: what it lost in a wait, or in several with no launch
between them (the time for which the device was busy during them), is missing right afterwards, so that so much of the
gap goes to those waits: *sync*, or *copy* where the host had to wait to copy from pageable memory. In the rest the host
was late: *host*.
"""

from __future__ import annotations

import numpy as np

from profiler.analysis.device.copies import Blocked
from profiler.analysis.device.launches import Launches
from profiler.analysis.intervals import Bools, Intervals, Ints, union
from profiler.record.trace.recording import Calls, DeviceEvents


def idle_causes(
    busy: Intervals,
    window: tuple[int, int],
    device: DeviceEvents,
    launches: Launches,
    calls: Calls,
    blocked: Blocked,
    data_wait: Intervals,
    communication: Intervals,
) -> dict[str, Intervals]:
    """Idle time within the window by cause (`device_facts.IDLE_CAUSES`)."""
    gaps = busy.complement(*window)
    launched = _next_launch(gaps, device, launches)
    late: Bools = launched > gaps.start
    starved = Intervals(gaps.start[late], gaps.end[late])
    queued = Intervals(gaps.start[~late], gaps.end[~late])
    found = {"data_wait": gaps.intersect(data_wait), "unknown": queued.subtract(data_wait)}
    rest = starved.subtract(data_wait)
    for cause, moments in (
        ("communication", communication),
        ("sync", blocked.syncs),
        ("copy", blocked.staging),
    ):
        found[cause] = rest.intersect(moments)
        rest = rest.subtract(moments)
    lost = _lost(starved, launched[late], busy, launches, calls, blocked)
    for cause, moments in lost.items():
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


def _lost(
    gaps: Intervals, launched: Ints, busy: Intervals, launches: Launches, calls: Calls, blocked: Blocked
) -> dict[str, Intervals]:
    """What of each gap the host would not have lost, had it not waited for the device before."""
    if len(blocked.call) == 0 or len(gaps) == 0:
        return {}
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
        begin = np.maximum(begin, until)
    return found
