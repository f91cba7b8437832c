"""The critical path of a typical step of a trace.

In:  the process that trains, its host's stages and its steps, and its launches.
Out: `CriticalPath`; None where no step is whole.

The training thread and those that run its graph count as one host: while a graph runs, the thread that asked for it
does nothing else.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from profiler.analysis.block import Moments
from profiler.analysis.device.collectives import collective_kernels
from profiler.analysis.device.copies import blocked_calls
from profiler.analysis.device.critical_path import HOST, LAUNCH, UNKNOWN, Piece, queue_of, walk
from profiler.analysis.device.enclosing import owners
from profiler.analysis.device.kernels import family_of
from profiler.analysis.device.launches import Launches
from profiler.analysis.device.pace import pace_of
from profiler.analysis.intervals import EMPTY, Intervals, Ints, union
from profiler.analysis.measured import Measured
from profiler.analysis.path_facts import CriticalPath, HostPart
from profiler.analysis.places import Places
from profiler.analysis.site import Site
from profiler.analysis.trace.host import Host
from profiler.analysis.trace.lines import stage_intervals
from profiler.analysis.trace.process import Process, graph_threads
from profiler.record.trace.recording import Work
from profiler.record.vocabulary import STAGE_ORDER

NS_PER_MS = 1e6
MOST_PARTS = 16
_MOST_LOOKED_AT = 256


def critical_path(
    process: Process,
    host: Host,
    moments: Moments,
    measured: Measured | None,
    windows: Intervals,
    launches: Launches,
    places: Places,
) -> CriticalPath | None:
    """The path through the step whose length is nearest to the median. Nothing of a thinned recording."""
    recording = process.recording
    if measured is None or recording.thinned or len(windows) != len(measured.rows) or not bool(measured.rows.any()):
        return None
    device = recording.device
    pace = pace_of(device, launches, windows, measured.warmup)
    starts, ends = (windows.start, windows.end) if pace is None else (pace.start, pace.end)
    first = 0 if pace is None else measured.warmup
    among = np.flatnonzero(measured.rows[first:] & (ends > starts))
    if len(among) == 0:
        return None
    lengths = (ends - starts)[among]
    chosen = int(among[np.argmin(np.abs(lengths - np.median(lengths)))])
    window = (int(starts[chosen]), int(ends[chosen]))
    engines = graph_threads(process)
    keys = np.column_stack((device.device, device.stream))
    stream = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1) if len(keys) else np.empty(0, np.int64)
    queue = queue_of(device.start, device.end, stream, launches.start, launches.end, window)
    pieces = walk(window, queue, _waits(process, launches, [process.thread, *engines], window), pace is not None)
    path = _summed(process, host, moments, places, engines, pieces, queue.number, first + chosen)
    busy_ms = union(device.start, device.end).clip(*window).total / NS_PER_MS if len(device) else None
    return replace(path, device_busy_ms=busy_ms, of_device=pace is not None)


def _waits(process: Process, launches: Launches, threads: list[int], window: tuple[int, int]) -> Intervals:
    """The waits of these threads for the device."""
    recording = process.recording
    calls = recording.calls
    if len(recording.device) == 0 or len(calls) == 0:
        return EMPTY
    call = blocked_calls(calls, recording.device, launches, recording.names).call
    call = call[np.isin(calls.track[call], threads)]
    return union(calls.start[call], calls.end[call]).clip(*window)


def _summed(
    process: Process,
    host: Host,
    moments: Moments,
    places: Places,
    engines: list[int],
    pieces: list[Piece],
    number: Ints,
    step: int,
) -> CriticalPath:
    table = np.array(pieces, dtype=np.int64).reshape(-1, 3)
    length, what = table[:, 1] - table[:, 0], table[:, 2]
    on_host = union(table[what == HOST, 0], table[what == HOST, 1])
    stages = _stages(host, moments, on_host)
    recording = process.recording
    device, names = recording.device, recording.names
    of_work = what >= 0
    work, time = number[what[of_work]], length[of_work]
    kernel, collective = device.work[work] == Work.KERNEL, collective_kernels(device, names)[work]
    families: dict[str, int] = {}
    own = kernel & ~collective
    kinds, row = np.unique(device.name[work[own]], return_inverse=True)
    for name, ns in zip(
        kinds.tolist(), np.bincount(row, weights=time[own], minlength=len(kinds)).tolist(), strict=True
    ):
        family = family_of(names[name])
        families[family] = families.get(family, 0) + int(ns)
    return CriticalPath(
        step=step,
        step_ms=int(length.sum()) / NS_PER_MS,
        host_ms={stage: ns / NS_PER_MS for stage, ns in stages.items() if stage != "data_wait" and ns > 0},
        data_wait_ms=stages.get("data_wait", 0) / NS_PER_MS,
        launch_ms=int(length[what == LAUNCH].sum()) / NS_PER_MS,
        kernels_ms={name: ns / NS_PER_MS for name, ns in sorted(families.items(), key=lambda item: -item[1])},
        copies_ms=int(time[~kernel].sum()) / NS_PER_MS,
        collectives_ms=int(time[kernel & collective].sum()) / NS_PER_MS,
        unknown_ms=int(length[what == UNKNOWN].sum()) / NS_PER_MS,
        host=_parts(process, host, moments, places, engines, on_host),
    )


def _by_stage(host: Host, moments: Moments, path: Intervals) -> dict[str, Intervals]:
    """The host's part by stage, on the host's clock."""
    on_clock = union(host.clock.to(path.start), host.clock.to(path.end))
    stages = stage_intervals(moments, np.unique(moments.step[moments.step >= 0]))
    return {stage: when.intersect(on_clock) for stage, when in stages.items()}


def _stages(host: Host, moments: Moments, path: Intervals) -> dict[str, int]:
    """The same in nanoseconds; what lies in none is `other`."""
    found = {stage: when.total for stage, when in _by_stage(host, moments, path).items()}
    found["other"] = found.get("other", 0) + path.total - sum(found.values())
    return {stage: found[stage] for stage in STAGE_ORDER if stage in found}


def _parts(
    process: Process, host: Host, moments: Moments, places: Places, engines: list[int], path: Intervals
) -> tuple[HostPart, ...]:
    """The host's part by operator, stage and place, the largest of them."""
    sums: dict[tuple[int, str, int], int] = {}
    graph = host.backward if engines else EMPTY
    for track in (process.thread, *engines):
        own = path.intersect(graph) if track in engines else path.subtract(graph)
        for stage, when in _by_stage(host, moments, own).items():
            for (operator, place), ns in _on_thread(process, host, places, track, when, own.bounds).items():
                sums[operator, stage, place] = sums.get((operator, stage, place), 0) + ns
    names = process.recording.names
    by_line: dict[tuple[str, str, Site | None], int] = {}
    for operator, stage, place in sorted(sums, key=lambda key: -sums[key])[:_MOST_LOOKED_AT]:
        name = names[operator] if operator >= 0 else ""
        key = (name, stage, places.line(place, name).site if place >= 0 else None)
        by_line[key] = by_line.get(key, 0) + sums[operator, stage, place]
    largest = sorted(by_line.items(), key=lambda item: -item[1])[:MOST_PARTS]
    return tuple(HostPart(name, stage, ns / NS_PER_MS, site) for (name, stage, site), ns in largest)


def _on_thread(
    process: Process, host: Host, places: Places, track: int, when: Intervals, bounds: tuple[int, int]
) -> dict[tuple[int, int], int]:
    """Nanoseconds of a thread at these moments (of the host's clock) by (name of the operator, place); -1 for none."""
    if len(when) == 0:
        return {}
    first, last = bounds
    operators = process.recording.operators
    own = np.flatnonzero((operators.track == track) & ~operators.marked)
    own = own[(operators.end[own] > first) & (operators.start[own] < last)]
    within = owners(operators.start[own], operators.end[own])
    edges = [within.edge, np.array(bounds, dtype=np.int64)]
    if track in places.tracks:
        edges.append(places.tracks[track].edge)
    edge = np.unique(np.clip(np.concatenate(edges), first, last))
    on_clock = host.clock.to(edge)
    time = when.within(on_clock[:-1], on_clock[1:])
    at = edge[:-1][time > 0]
    owner = within.at(at)
    name = np.where(owner >= 0, operators.name[own[np.maximum(owner, 0)]], -1) if len(own) else owner
    place = places.at(at, np.full(len(at), track, dtype=np.int32))
    keys, row = np.unique(np.column_stack((name, place)), axis=0, return_inverse=True)
    sums = np.bincount(row.reshape(-1), weights=time[time > 0], minlength=len(keys)).tolist()
    return {(int(a), int(b)): int(ns) for (a, b), ns in zip(keys.tolist(), sums, strict=True)}
