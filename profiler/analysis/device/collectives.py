"""Collectives on the device, by kind.

In:  device events of one process, when other kernels ran, and the host's ranges around the launches.
Out: `CollectiveFacts`, most exposed first.

The kind is what the trace itself says of the kernel, else the range around its launch (`nccl:all_to_all`), else the
kernel's name, which calls everything from point to point SendRecv.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from profiler.analysis.device.kernels import collective_kind, is_collective
from profiler.analysis.device_facts import CollectiveFacts
from profiler.analysis.intervals import Bools, Intervals, Ints, union
from profiler.record.trace.recording import DeviceEvents, Work

NS_PER_MS = 1e6
_ELEMENT_BYTES = {
    "float": 4, "float32": 4, "int": 4, "int32": 4, "half": 2, "float16": 2, "bfloat16": 2, "short": 2, "int16": 2,
    "double": 8, "float64": 8, "long": 8, "int64": 8, "byte": 1, "char": 1, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


def collective_kernels(device: DeviceEvents, names: tuple[str, ...]) -> Bools:
    """Which device events are kernels of collectives."""
    kernels = device.work == Work.KERNEL
    chosen = [number for number in np.unique(device.name[kernels]).tolist() if is_collective(names[number])]
    found: Bools = kernels & np.isin(device.name, chosen)
    return found


def collective_facts(
    device: DeviceEvents, which: Bools, ranges: Ints, others: Intervals, names: tuple[str, ...]
) -> tuple[CollectiveFacts, ...]:
    """By kind; `ranges` names, per device event, the host's range around its launch (-1 for none)."""
    at = np.flatnonzero(which)
    kinds = collective_kinds(at, device, ranges, names)
    found = []
    for kind in sorted(set(kinds.tolist())):
        own = at[kinds == kind]
        time = union(device.start[own], device.end[own])
        found.append(
            CollectiveFacts(
                name=kind,
                count=len(own),
                ms=time.total / NS_PER_MS,
                exposed_ms=time.subtract(others).total / NS_PER_MS,
                bytes=_bytes(device, own, names),
                dtype=_dtype(device, own, names),
            )
        )
    return tuple(sorted(found, key=lambda facts: (-facts.exposed_ms, -facts.ms)))


def collective_kinds(at: Ints, device: DeviceEvents, ranges: Ints, names: tuple[str, ...]) -> npt.NDArray[np.object_]:
    """The kind of each of these collectives."""
    return np.array([_kind(number, device, ranges, names) for number in at.tolist()], dtype=object)


def _kind(number: int, device: DeviceEvents, ranges: Ints, names: tuple[str, ...]) -> str:
    said, around, own = int(device.collective[number]), int(ranges[number]), int(device.name[number])
    for name in (said, around, own):
        kind = collective_kind(names[name]) if name >= 0 else None
        if kind is not None:
            return kind
    return "other"


def _bytes(device: DeviceEvents, own: Ints, names: tuple[str, ...]) -> int | None:
    """What they sent, where the trace says it of each."""
    if bool((device.elements[own] < 0).any()) or bool((device.dtype[own] < 0).any()):
        return None
    widths = [_ELEMENT_BYTES.get(names[number].lower(), 0) for number in device.dtype[own].tolist()]
    return int(sum(n * width for n, width in zip(device.elements[own].tolist(), widths, strict=True))) or None


def _dtype(device: DeviceEvents, own: Ints, names: tuple[str, ...]) -> str | None:
    said = np.unique(device.dtype[own])
    return names[int(said[0])] if len(said) == 1 and said[0] >= 0 else None
