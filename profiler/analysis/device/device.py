"""From what a process's host and devices did to `DeviceFacts`.

In:  `Work`: device events linked to their launches, and what the host was doing when.
Out: `DeviceFacts`. The span, the unions and the shares are as `device_facts` defines them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiler.analysis.device import tables
from profiler.analysis.device.collectives import collective_facts, collective_kernels
from profiler.analysis.device.copies import blocked_calls, copy_kind, long_calls
from profiler.analysis.device.enclosing import by_track, innermost, outermost
from profiler.analysis.device.idle import gaps_of, idle_causes, lost_leads
from profiler.analysis.device.launches import Launches, queue_depth
from profiler.analysis.device.pace import Pace, pace_of
from profiler.analysis.device_facts import COPY_KINDS, IDLE_CAUSES, CopyFacts, DeviceFacts, DeviceStep
from profiler.analysis.intervals import Bools, Intervals, Ints, union
from profiler.analysis.places import Places
from profiler.analysis.site import Site
from profiler.record.trace.recording import DeviceEvents, Recording, Work

NS_PER_MS = 1e6
_MEMORY_CALL = re.compile(r"(cuda|hip)(Malloc|HostAlloc)|(cu|hip)Mem(Create|Map|SetAccess)")
_MEMORY_POINTS = 600
_MOSTLY_STEPS = 0.95  # of the time from the first step to the last, what lies between them is the profiler's


@dataclass(frozen=True, slots=True)
class Seen:
    """What the host did while the device worked. Times are those of the recording."""

    stage: npt.NDArray[np.object_]  # per device event: the stage in which its launch lay, "" where not known
    call_stage: npt.NDArray[np.object_]  # per runtime call
    data_wait: Intervals
    communication: Intervals  # of hosts among themselves
    steps: Intervals  # as the host cut them; empty where it cut none
    first_measured: int  # of the steps
    places: Places


def device_facts(recording: Recording, launches: Launches, seen: Seen, source: str) -> DeviceFacts | None:
    """The device's side; None where the recording holds no device event."""
    device, names = recording.device, recording.names
    if len(device) == 0:
        return None
    kernel = device.work == Work.KERNEL
    collective = collective_kernels(device, names)
    busy = union(device.start, device.end)
    kernels, computing = _union(device, kernel), _union(device, kernel & ~collective)
    collectives = _union(device, collective)
    copying = _union(device, _between(device, names)).subtract(kernels)
    blocked = blocked_calls(recording.calls, device, launches, names)
    gaps = gaps_of(busy, (0, recording.length_ns), device, launches)
    leads = lost_leads(gaps, busy, launches, recording.calls, blocked)
    idle = idle_causes(gaps, leads, blocked, seen.data_wait, seen.communication)
    starving = blocked.all.intersect(gaps.starved)
    ranges = tables.ranges_around(recording, launches, collective)
    operators = recording.operators
    around = by_track(operators, ~operators.marked, launches.start, launches.track, innermost)
    operator = np.full(len(device), -1, dtype=np.int64)
    operator[around >= 0] = operators.name[around[around >= 0]]
    place = seen.places.at(launches.start, launches.track)
    length = (device.end - device.start)[kernel]
    known = launches.known & kernel
    delays = np.maximum(device.start - launches.end, 0)[known]
    depths = queue_depth(device, launches)
    count = len(seen.steps) - seen.first_measured
    thinned = recording.thinned
    pace = None if thinned else pace_of(device, launches, seen.steps, seen.first_measured)
    told = _in_steps(seen, device.start) if pace is None else pace.work
    in_steps = _in_steps(seen, recording.calls.start[blocked.call])
    of_families = tables.family_moments(device, kernel & told, names)
    return DeviceFacts(
        name=recording.devices.get(_main_device(device)),
        source=source,
        span_ms=recording.length_ns / NS_PER_MS,
        busy_ms=busy.total / NS_PER_MS,
        steps_busy_share=_steps_share(busy, seen, pace),
        kernel_count=int(np.count_nonzero(kernel)),
        kernel_ms=kernels.total / NS_PER_MS,
        kernel_sum_ms=float(length.sum()) / NS_PER_MS,
        tensor_core_share=tables.tensor_core_share(recording, kernel),
        copies=_copies(launches, recording, np.ones(len(device), dtype=bool), place, seen.places),
        step_copies=None if bool(told.all()) else _copies(launches, recording, told, place, seen.places),
        collectives_ms=collectives.total / NS_PER_MS,
        collectives_exposed_ms=collectives.subtract(computing).total / NS_PER_MS,
        collectives=collective_facts(device, collective, ranges, computing, names),
        idle_ms=None if thinned else {cause: idle[cause].total / NS_PER_MS for cause in IDLE_CAUSES},
        sync_ms=blocked.all.total / NS_PER_MS,
        sync_starved_ms=blocked.all.subtract(busy).total / NS_PER_MS,
        syncs=tables.sync_calls(recording, blocked, gaps.starved, leads.after, seen.call_stage, in_steps, seen.places),
        stages_ms=_stages(device, seen, count),
        families=tables.families(device, kernel & told, names),
        kernels=tables.kernels(device, kernel & told, seen.stage, operator, names, place, seen.places),
        launch_delay_us=float(np.median(delays)) / 1e3 if len(delays) and not thinned else None,
        queue_depth=float(np.median(depths)) if len(depths) and not thinned else None,
        steps=_steps(
            seen,
            pace,
            {
                "busy_ms": busy,
                "computing_ms": computing,
                "exposed_collectives_ms": collectives.subtract(computing),
                "exposed_copies_ms": copying,
            },
            {
                "waited_ms": blocked.all.intersect(busy),
                "starved_ms": starving,
                "start_up_ms": long_calls(recording.calls, blocked).subtract(busy),
            },
            {} if thinned else idle,
            of_families,
        ),
        memory_timeline=_memory(recording, _main_device(device)),
        thinned=thinned,
        pace_ms=pace.mean_ms if pace is not None else None,
        pace_noise_ms=pace.noise_ms if pace is not None else None,
        driver_memory_ms=_driver_memory_ms(recording, seen),
    )


def _in_steps(seen: Seen, at: Ints) -> Bools:
    """Which moments lie in the measured steps; all of them, where there is none."""
    first = seen.first_measured
    if len(seen.steps) <= first:
        return np.ones(len(at), dtype=bool)
    return Intervals(seen.steps.start[first:], seen.steps.end[first:]).holds(at)


def _union(device: DeviceEvents, which: Bools) -> Intervals:
    return union(device.start[which], device.end[which])


def _main_device(device: DeviceEvents) -> int:
    """The device that worked longest."""
    numbers, place = np.unique(device.device, return_inverse=True)
    return int(numbers[np.bincount(place, weights=device.end - device.start).argmax()])


def _steps_share(busy: Intervals, seen: Seen, pace: Pace | None) -> float | None:
    """Busy time from the first measured step's start to the last one's end, without evaluations between them."""
    if len(seen.steps) <= seen.first_measured:
        return None
    start, end = seen.steps.start[seen.first_measured :], seen.steps.end[seen.first_measured :]
    if pace is not None:
        start, end = pace.start, pace.end
    steps = union(start, end)
    if steps.total < _MOSTLY_STEPS * (end[-1] - start[0]):
        return busy.intersect(steps).total / steps.total
    return busy.clip(int(start[0]), int(end[-1])).total / int(end[-1] - start[0])


def _copies(
    launches: Launches, recording: Recording, among: Bools, place: Ints, places: Places
) -> dict[str, CopyFacts]:
    """By kind; where the device's event does not say how many bytes, its call may."""
    device, names = recording.device, recording.names
    copies = (device.work == Work.COPY) & among
    size = device.bytes
    linked = launches.call >= 0
    if len(recording.calls):
        said = recording.calls.bytes[np.maximum(launches.call, 0)]
        size = np.where((size < 0) & linked, said, size)
    kinds = {number: copy_kind(names[number]) for number in np.unique(device.name[copies]).tolist()}
    found = {}
    for kind in COPY_KINDS:
        own = copies & np.isin(device.name, [number for number, of_kind in kinds.items() if of_kind == kind])
        if bool(own.any()):
            complete = bool((size[own] >= 0).all())
            found[kind] = CopyFacts(
                count=int(np.count_nonzero(own)),
                ms=float((device.end - device.start)[own].sum()) / NS_PER_MS,
                bytes=int(size[own].sum()) if complete else None,
                site=_site_of_copies(launches, recording, own, place, places),
            )
    return found


def _site_of_copies(launches: Launches, recording: Recording, own: Bools, place: Ints, places: Places) -> Site | None:
    """The user's line with most of these copies' time, told by the operator that the user called there: `.item()`
    copies, too."""
    if not places:
        return None
    device, operators = recording.device, recording.operators
    around = by_track(operators, ~operators.marked, launches.start[own], launches.track[own], outermost)
    called = operators.name[around[around >= 0]]
    operator = recording.names[int(np.bincount(called).argmax())] if len(called) else ""
    return places.site(place[own], (device.end - device.start)[own], operator)


def _stages(device: DeviceEvents, seen: Seen, steps: int) -> dict[str, float]:
    """Summed time per step by the stage of the launch; {} where no step was cut."""
    if steps <= 0:
        return {}
    length = device.end - device.start
    found = {}
    for stage in sorted(set(seen.stage.tolist()) - {""}):
        found[stage] = float(length[seen.stage == stage].sum()) / NS_PER_MS / steps
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _steps(
    seen: Seen,
    pace: Pace | None,
    measures: dict[str, Intervals],
    of_host: dict[str, Intervals],
    idle: dict[str, Intervals],
    families: dict[str, Intervals],
) -> tuple[DeviceStep, ...]:
    """What lies in each measured step: in the device's own where it lags, and of what the host did in the host's."""
    first = seen.first_measured
    start, end = seen.steps.start[first:], seen.steps.end[first:]

    def inside(measured: dict[str, Intervals]) -> dict[str, list[float]]:
        return {name: (moments.within(start, end) / NS_PER_MS).tolist() for name, moments in measured.items()}

    columns = inside(of_host)
    if pace is not None:
        start, end = pace.start, pace.end
    columns |= inside(measures)
    causes, of_families = inside(idle), inside(families)
    wall = ((end - start) / NS_PER_MS).tolist()
    return tuple(
        DeviceStep(
            index=first + number,
            wall_ms=wall[number],
            idle_ms={cause: causes[cause][number] for cause in IDLE_CAUSES if causes},
            families_ms={family: times[number] for family, times in of_families.items()},
            **{name: column[number] for name, column in columns.items()},
        )
        for number in range(len(wall))
    )


def _between(device: DeviceEvents, names: tuple[str, ...]) -> Bools:
    """Copies between host and device."""
    copies = device.work == Work.COPY
    chosen = [n for n in np.unique(device.name[copies]).tolist() if copy_kind(names[n])[:3] in ("h2d", "d2h")]
    found: Bools = copies & np.isin(device.name, chosen)
    return found


def _driver_memory_ms(recording: Recording, seen: Seen) -> float | None:
    """Per measured step, the host in calls that take memory from the driver; None without steps, or without calls."""
    first = seen.first_measured
    if len(seen.steps) <= first or len(recording.calls) == 0:
        return None
    calls, names = recording.calls, recording.names
    numbers = [number for number in np.unique(calls.name).tolist() if _MEMORY_CALL.match(names[number])]
    own = np.isin(calls.name, numbers)
    inside = union(calls.start[own], calls.end[own]).within(seen.steps.start[first:], seen.steps.end[first:])
    return float(inside.sum()) / NS_PER_MS / (len(seen.steps) - first)


def _memory(recording: Recording, device: int) -> tuple[tuple[float, int], ...]:
    """At most 600 readings of the main device's allocator, each the highest of its stretch."""
    memory = recording.memory
    own = np.flatnonzero((memory.device == device) & (memory.allocated >= 0))
    if len(own) == 0:
        return ()
    stretches = np.array_split(own, min(_MEMORY_POINTS, len(own)))
    peaks = [int(stretch[np.argmax(memory.allocated[stretch])]) for stretch in stretches]
    return tuple((float(memory.time[at]) / NS_PER_MS, int(memory.allocated[at])) for at in peaks)
