"""Kernels by name and by family, and the host's waits by call: the tables of `DeviceFacts`.

In:  device events and runtime calls, and the stage and operator in which each was launched.
Out: rows, largest first.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.analysis.device.copies import Blocked
from profiler.analysis.device.enclosing import by_track, innermost, outermost
from profiler.analysis.device.kernels import family_of, tensor_cores_of
from profiler.analysis.device.launches import Launches
from profiler.analysis.device_facts import KernelFacts, SyncCall
from profiler.analysis.intervals import Bools, Intervals, Ints, union
from profiler.analysis.places import Places
from profiler.record.trace.recording import DeviceEvents, Recording

NS_PER_MS = 1e6
MOST_KERNELS = 60
MOST_SYNCS = 30
_OTHER_CALL = re.compile(r"hip[A-Z]|ze[A-Z]|ur[A-Z]|hsa_")
_OTHER_DEVICE = re.compile(r"\b(AMD|Radeon|Instinct|Intel|Gaudi|Ascend)", re.IGNORECASE)
_COLLECTIVE_RANGE = re.compile(r"^(nccl|rccl|ccl|xccl|hccl|gloo|mpi|ucc):")


def tensor_core_share(recording: Recording, kernel: Bools) -> float | None:
    """Share of the kernels' time in those whose name says that they run on tensor cores.

    None where no name says it and that proves nothing: of makers other than NVIDIA few names do, and some compilers'
    never.
    """
    device, names = recording.device, recording.names
    own, length = device.name[kernel], (device.end - device.start)[kernel]
    total = int(length.sum())
    told = {number: tensor_cores_of(names[number]) for number in np.unique(own).tolist()}
    chosen = [number for number, tensor in told.items() if tensor]
    if total == 0 or (not chosen and (None in told.values() or _of_another_maker(recording))):
        return None
    return float(length[np.isin(own, chosen)].sum()) / total


def _of_another_maker(recording: Recording) -> bool:
    calls = (recording.names[number] for number in np.unique(recording.calls.name).tolist())
    return any(_OTHER_CALL.match(name) for name in calls) or any(
        _OTHER_DEVICE.search(name) for name in recording.devices.values()
    )


def family_moments(device: DeviceEvents, kernel: Bools, names: tuple[str, ...]) -> dict[str, Intervals]:
    """When kernels of each family ran."""
    of_family: dict[str, list[int]] = {}
    for number in np.unique(device.name[kernel]).tolist():
        of_family.setdefault(family_of(names[number]), []).append(number)
    found = {}
    for family, numbers in of_family.items():
        own = kernel & np.isin(device.name, numbers)
        found[family] = union(device.start[own], device.end[own])
    return found


def families(device: DeviceEvents, kernel: Bools, names: tuple[str, ...]) -> tuple[KernelFacts, ...]:
    """Kernels by family."""
    counts, sums = _by_name(device, kernel, len(names))
    table: dict[str, tuple[int, int]] = {}
    for number in np.flatnonzero(counts).tolist():
        family = family_of(names[number])
        count, total = table.get(family, (0, 0))
        table[family] = (count + int(counts[number]), total + int(sums[number]))
    rows = [KernelFacts(name, name, "", count, total / NS_PER_MS, None) for name, (count, total) in table.items()]
    return tuple(sorted(rows, key=lambda row: -row.ms))


def _by_name(device: DeviceEvents, which: Bools, names: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    own = device.name[which]
    length = (device.end - device.start)[which]
    return np.bincount(own, minlength=names), np.bincount(own, weights=length, minlength=names)


def kernels(
    device: DeviceEvents,
    kernel: Bools,
    stage: npt.NDArray[np.object_],
    operator: Ints,
    names: tuple[str, ...],
    where: Ints,
    places: Places,
) -> tuple[KernelFacts, ...]:
    """Kernels by name and stage of their launch, with the operator that launched most of them."""
    at = np.flatnonzero(kernel)
    stages, number = np.unique(stage[at].astype(str), return_inverse=True)
    key = device.name[at].astype(np.int64) * len(stages) + number
    keys, place = np.unique(key, return_inverse=True)
    length = (device.end - device.start)[at]
    sums = np.bincount(place, weights=length, minlength=len(keys))
    counts = np.bincount(place, minlength=len(keys))
    rows = []
    for row in np.argsort(-sums, kind="stable")[:MOST_KERNELS].tolist():
        own = place == row
        launched = operator[at[own]]
        named = launched[launched >= 0]
        name = names[int(keys[row]) // len(stages)]
        launched_by = names[int(np.bincount(named).argmax())] if len(named) else ""
        rows.append(
            KernelFacts(
                name=name,
                family=family_of(name),
                stage=str(stages[int(keys[row]) % len(stages)]),
                count=int(counts[row]),
                ms=float(sums[row]) / NS_PER_MS,
                tensor_cores=tensor_cores_of(name),
                operator=launched_by,
                site=places.site(where[at[own]], length[own], launched_by),
            )
        )
    return tuple(rows)


def ranges_around(recording: Recording, launches: Launches, which: Bools) -> Ints:
    """Per device event the name of the collective's range around its launch; -1 for none."""
    operators, names = recording.operators, recording.names
    found = np.full(len(recording.device), -1, dtype=np.int64)
    if not bool(which.any()):
        return found
    numbers = [n for n in np.unique(operators.name).tolist() if _COLLECTIVE_RANGE.match(names[n])]
    at = np.flatnonzero(which & launches.known)
    ranges = np.isin(operators.name, numbers)
    around = by_track(operators, ranges, launches.start[at], launches.track[at], innermost)
    inside = around >= 0
    found[at[inside]] = operators.name[around[inside]]
    return found


def sync_calls(
    recording: Recording,
    blocked: Blocked,
    starved: Intervals,
    after: Ints,
    stage: npt.NDArray[np.object_],
    among: Bools,
    places: Places,
) -> tuple[SyncCall, ...]:
    """Some of the host's waits, by call, operator, stage and the user's line."""
    calls, operators, names = recording.calls, recording.operators, recording.names
    at, lost = blocked.call[among], after[among]
    if len(at) == 0:
        return ()
    around = by_track(operators, ~operators.marked, calls.start[at], calls.track[at], outermost)
    operator = np.full(len(at), -1, dtype=np.int64)
    operator[around >= 0] = operators.name[around[around >= 0]]
    where = places.at(calls.start[at], calls.track[at])
    rows: dict[tuple[int, int, str, int], list[int]] = {}
    for number, key in enumerate(
        zip(calls.name[at].tolist(), operator.tolist(), stage[at].tolist(), where.tolist(), strict=True)
    ):
        rows.setdefault(key, []).append(number)
    found = []
    for (name, around_it, of_stage, place), numbers in rows.items():
        own = at[numbers]
        time = union(calls.start[own], calls.end[own])
        holds = operators.where(np.unique(around[numbers])) if around_it >= 0 else calls.where(own)
        held = union(holds.start, holds.end)
        during = int(starved.within(time.start, time.end).sum())
        found.append(
            SyncCall(
                name=names[name],
                operator=names[around_it] if around_it >= 0 else "",
                stage=of_stage,
                count=len(own),
                ms=time.total / NS_PER_MS,
                starved_ms=during / NS_PER_MS,
                held_ms=held.total / NS_PER_MS,
                lost_ms=(during + int(lost[numbers].sum())) / NS_PER_MS,
                site=places.line(place, names[around_it] if around_it >= 0 else "").site if place >= 0 else None,
            )
        )
    return tuple(sorted(found, key=lambda call: -call.ms)[:MOST_SYNCS])
