"""The collectives of one rank that others can be laid beside.

In:  device events of one process with their launches, and the steps that the profiler marked.
Out: `Exchanges`, small, of whole steps.

Only collectives that end for nobody before the last rank has come: of those that send one way a rank may be done early.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiler.analysis.device.collectives import collective_kernels, collective_kinds
from profiler.analysis.device.launches import Launches
from profiler.analysis.device.tables import ranges_around
from profiler.analysis.trace.host import Host
from profiler.record.trace.recording import Recording

TOGETHER = frozenset({"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier"})
MOST_KEPT = 4096  # collectives of a rank


@dataclass(frozen=True, slots=True)
class Exchanges:
    """Collectives in the order of their launches. Times are ns of the trace's own clock."""

    step: tuple[int, ...] = ()  # number of the marked step that launched each
    kind: tuple[str, ...] = ()
    elements: tuple[int, ...] = ()  # that it sends; -1: not said, as below
    members: tuple[int, ...] = ()  # ranks in its group
    start_ns: tuple[int, ...] = ()
    end_ns: tuple[int, ...] = ()


def exchanges_of(recording: Recording, launches: Launches, host: Host) -> Exchanges:
    """Empty where no step is marked, or the launches are not in the file. Of many steps every second, fourth, …"""
    marked, device, names = host.marked, recording.device, recording.names
    which = collective_kernels(device, names)
    if marked is None or host.first_number is None or not bool((which & launches.known).any()):
        return Exchanges()
    at = np.flatnonzero(which & launches.known)
    at = at[np.lexsort((device.start[at], launches.start[at]))]
    place = np.searchsorted(marked.start, launches.start[at], side="right") - 1
    inside = (place >= 0) & (launches.start[at] < marked.end[np.maximum(place, 0)])
    kinds = collective_kinds(at, device, ranges_around(recording, launches, which), names)
    chosen = inside & np.isin(kinds, list(TOGETHER))
    at, kinds, step = at[chosen], kinds[chosen], place[chosen] + host.first_number
    stride = 1
    while np.count_nonzero(step % stride == 0) > MOST_KEPT:
        stride *= 2
    kept = step % stride == 0
    at, origin = at[kept], recording.origin_ns + recording.base_ns
    return Exchanges(
        step=tuple(step[kept].tolist()),
        kind=tuple(kinds[kept].tolist()),
        elements=tuple(device.elements[at].tolist()),
        members=tuple(device.members[at].tolist()),
        start_ns=tuple((device.start[at] + origin).tolist()),
        end_ns=tuple((device.end[at] + origin).tolist()),
    )
