"""What the run ran on, and how busy that was while the steps ran.

In:  run.json, the `device` note, and the sampler's readings.
Out: `Machine`, and why parts of it were not measured.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from profiler.analysis.facts import Machine
from profiler.analysis.folded import Folded
from profiler.analysis.measured import Measured
from profiler.analysis.stack import Ints
from profiler.analysis.tables import ABSENT
from profiler.record.vocabulary import Name

_GPU = {
    Name.GPU_UTILIZATION_PERCENT: ("utilization_percent", 1.0),
    Name.GPU_MEMORY_USED_BYTES: ("memory_used_bytes", 1.0),
    Name.GPU_POWER_MILLIWATTS: ("power_w", 1e-3),
    Name.GPU_SM_CLOCK_MHZ: ("sm_clock_mhz", 1.0),
    Name.GPU_TEMPERATURE_C: ("temperature_c", 1.0),
}


def machine_of(
    run_json: Mapping[str, Any],
    device: Mapping[str, Any] | None,
    folded: Folded,
    measured: Measured | None,
    values: Mapping[str, Any],
) -> tuple[Machine, dict[str, str]]:
    """The machine, and reasons for what is missing.

    `values` are the settings of the training process: what it may use counts before what its launcher might.
    """
    absent: dict[str, str] = {}
    if device is None:
        absent["device"] = "no parameter's device was seen"
    window = measured.window_ns if measured is not None else (folded.first_ns, folded.last_ns)
    if measured is not None and len(_within(folded, Name.PROCESS_CPU_NS, window)[0]) < 2:
        window = (measured.first_ns, folded.last_ns)  # a short run: readings come once a second
    rates = {name: _rate(folded, name, window) for name in _COUNTERS}
    if rates[Name.SYSTEM_IDLE_NS] is None:
        absent["idle cores"] = "the sampler took fewer than two readings while the steps ran"
    gpu = _gpu(folded, window)
    name = str(device.get("name") or "cpu") if device else "cpu"
    if not gpu and name != "cpu":
        absent["gpu"] = "NVML gave no readings"
    idle = rates[Name.SYSTEM_IDLE_NS]
    quota, used = values.get("core_quota"), rates[Name.CONTAINER_CPU_NS]
    if idle is not None and isinstance(quota, (int, float)) and used is not None:
        idle = min(idle, max(0.0, quota - used))  # the machine's other cores are not for this container
    machine = Machine(
        cores=_whole(values.get("cores")) or _whole(run_json.get("cores")) or os.cpu_count() or 1,
        memory_bytes=_whole(values.get("memory_bytes")) or _whole(run_json.get("memory_bytes")) or 0,
        device=name,
        asynchronous=bool(device and device.get("asynchronous")),
        device_times=bool(device and device.get("device_times")),
        idle_cores=idle,
        iowait_cores=rates[Name.SYSTEM_IOWAIT_NS],
        process_cores=rates[Name.PROCESS_CPU_NS],
        without_core=rates[Name.TRAINING_RUN_DELAY_NS],
        gpu=gpu,
    )
    return machine, absent


_COUNTERS = (
    Name.SYSTEM_IDLE_NS,
    Name.SYSTEM_IOWAIT_NS,
    Name.PROCESS_CPU_NS,
    Name.CONTAINER_CPU_NS,
    Name.TRAINING_RUN_DELAY_NS,
)


def _within(folded: Folded, name: Name, window: tuple[int, int]) -> tuple[Ints, Ints]:
    """Times and values of a reading within the window."""
    columns = folded.readings.columns()
    column = columns.get(f"value_{int(name)}")
    if column is None:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    taken = (column != ABSENT) & (columns["time_ns"] >= window[0]) & (columns["time_ns"] <= window[1])
    return columns["time_ns"][taken], column[taken]


def _rate(folded: Folded, name: Name, window: tuple[int, int]) -> float | None:
    """How fast a counter of ns grew: a number of cores."""
    time, value = _within(folded, name, window)
    if len(time) < 2 or time[-1] <= time[0]:
        return None
    return max(0.0, float(value[-1] - value[0]) / float(time[-1] - time[0]))


def _gpu(folded: Folded, window: tuple[int, int]) -> dict[str, float]:
    """Means of NVML's readings while the steps ran; the reasons for throttling that were ever given."""
    found: dict[str, float] = {}
    for name, (called, unit) in _GPU.items():
        _, values = _within(folded, name, window)
        if len(values):
            found[called] = float(values.mean()) * unit
    _, reasons = _within(folded, Name.GPU_THROTTLE_REASONS, window)
    if len(reasons):
        found["throttle_reasons"] = float(functools.reduce(operator.or_, reasons.tolist()))
    return found


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
