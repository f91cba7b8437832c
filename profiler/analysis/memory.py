"""Memory: peaks, by stage and by category, and whether it grows.

In:  the samples' readings, exact peaks, and the notes `memory` and `outputs` of the step that was looked at closely.
Out: `MemoryFacts`, and why parts of it were not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis import noise
from profiler.analysis.asides import Columns
from profiler.analysis.block import LEFT_OUT
from profiler.analysis.facts import MemoryFacts, MemorySample
from profiler.analysis.folded import Folded
from profiler.analysis.measured import NS_PER_MS, Measured
from profiler.analysis.noise import Floats
from profiler.analysis.stack import Bools
from profiler.analysis.tables import ABSENT
from profiler.record.vocabulary import STAGE_ORDER, Name

_GROWTH_STEPS = 50
_GROWTH_POINTS = 400
_GROWTH_READINGS = 24
_TIMELINE_POINTS = 600
_BLOCK_READINGS = 4
_RISING = 0.8
_GROWTH_SIGMA = 3.0
_LEAST_GROWTH_BYTES = 1 << 20  # less is the allocator's own coming and going
_RSS = f"value_{int(Name.RSS_BYTES)}"
_ALLOCATED = f"value_{int(Name.DEVICE_ALLOCATED_BYTES)}"


def memory_facts(
    folded: Folded,
    measured: Measured | None,
    notes: Sequence[Mapping[str, Any]],
    outputs_notes: Sequence[Mapping[str, Any]],
    capacity_bytes: int | None,
    began_ns: int,
) -> tuple[MemoryFacts, dict[str, str]]:
    """Memory over the run, and reasons for what is missing."""
    samples = folded.samples.columns()
    absent: dict[str, str] = {}
    on_device = bool(folded.peaks.get(Name.DEVICE_ALLOCATED_BYTES) or folded.peaks.get(Name.DEVICE_PEAK_BYTES))
    growth = _growth(samples, measured, _ALLOCATED if on_device else _RSS)
    grew_on_device = on_device and isinstance(growth, tuple)
    if growth is None and on_device:
        growth = _growth(samples, measured, _RSS)
    if _peak(folded, Name.RSS_BYTES) is None:
        absent["memory"] = "the sampler took no reading of memory"
    elif isinstance(growth, str):
        absent["memory growth"] = growth
    slope, total, grown_steps = growth if isinstance(growth, tuple) else (None, None, None)
    note = notes[-1] if notes else {}
    outputs = outputs_notes[-1] if outputs_notes else {}
    if not notes:
        absent["memory categories"] = "no step was looked at for what its memory holds"
    device_peaks = [_peak(folded, Name.DEVICE_PEAK_BYTES), _peak(folded, Name.DEVICE_ALLOCATED_BYTES)]
    facts = MemoryFacts(
        peak_rss_bytes=_peak(folded, Name.RSS_BYTES),
        peak_device_bytes=max((peak for peak in device_peaks if peak is not None), default=None),
        reserved_device_bytes=_peak(folded, Name.DEVICE_RESERVED_BYTES),
        device_capacity_bytes=capacity_bytes,
        workers_peak_rss_bytes=_workers_peak(folded),
        stage_peak_bytes=_by_stage(folded, Name.DEVICE_ALLOCATED_BYTES if on_device else Name.RSS_BYTES),
        categories_bytes=_categories(note),
        activations_by_module=_modules(note),
        growth_bytes_per_step=slope,
        growth_bytes=total,
        growth_steps=grown_steps,
        timeline=_timeline(samples, began_ns),
        alloc_retries=_alloc_retries(samples, measured),
        inactive_bytes=_highest(samples, measured, f"value_{int(Name.DEVICE_INACTIVE_BYTES)}"),
        python_blocks_per_step=_python_blocks(folded, measured),
        gradients_in_forward_bytes=_whole(note, "gradients_in_forward"),
        growth_on_device=grew_on_device,
        samples_in_step=_whole(note, "samples"),
        outputs_held_bytes=_whole(outputs, "held_bytes"),
        outputs_outlived_bytes=_whole(outputs, "outlived_bytes"),
    )
    return facts, absent


def _readings(samples: Columns, measured: Measured | None, name: str) -> Floats:
    """A reading's values in the measured steps."""
    if measured is None or name not in samples:
        return np.empty(0)
    chosen = (samples[name] != ABSENT) & (samples["step"] >= measured.warmup)
    values: Floats = samples[name][chosen].astype(np.float64)
    return values


def _alloc_retries(samples: Columns, measured: Measured | None) -> int | None:
    values = _readings(samples, measured, f"value_{int(Name.DEVICE_ALLOC_RETRIES)}")
    return int(values[-1] - values[0]) if len(values) >= 2 else None


def _highest(samples: Columns, measured: Measured | None, name: str) -> int | None:
    values = _readings(samples, measured, name)
    return int(values.max()) if len(values) else None


def _python_blocks(folded: Folded, measured: Measured | None) -> float | None:
    """Blocks a step, where they rose from each reading to the next, but for one in five."""
    columns, name = folded.readings.columns(), f"value_{int(Name.PYTHON_BLOCKS)}"
    if measured is None or name not in columns:
        return None
    start, end = measured.window_ns
    chosen = (columns[name] != ABSENT) & (columns["time_ns"] >= start) & (columns["time_ns"] <= end)
    values, time = columns[name][chosen], columns["time_ns"][chosen]
    if len(values) < _BLOCK_READINGS or np.count_nonzero(np.diff(values) > 0) < _RISING * (len(values) - 1):
        return None
    per_ns = float(values[-1] - values[0]) / float(time[-1] - time[0])
    step_ns = measured.mean(measured.wall_ms()) * NS_PER_MS
    return per_ns * step_ns if per_ns > 0 else None


def _peak(folded: Folded, name: Name) -> int | None:
    """The highest reading; what our own deep window holds while it reads is not the training's."""
    peaks = folded.peaks.get(name, {})
    of_training = [peak for label, peak in peaks.items() if label != lab.INSTRUMENT]
    return max(of_training or peaks.values(), default=None)


def _workers_peak(folded: Folded) -> int | None:
    column = folded.readings.columns().get(f"value_{int(Name.WORKERS_RSS_BYTES)}")
    highest = int(column.max()) if column is not None and len(column) else 0
    return highest if highest > 0 else None


def _by_stage(folded: Folded, name: Name) -> dict[str, int]:
    """The highest reading taken while in each stage."""
    found: dict[str, int] = {}
    for label, peak in folded.peaks.get(name, {}).items():
        if label < lab.LABELS:
            stage = STAGE_ORDER[int(lab.STAGE_OF[label])]
            found[stage] = max(found.get(stage, 0), peak)
    return {stage: found[stage] for stage in STAGE_ORDER if stage in found}


def _growth(samples: Columns, measured: Measured | None, reading: str) -> tuple[float, int, int] | str | None:
    """Bytes per step, in all, and over how many steps: measured ones in a row in which nothing of ours ran.

    None for no growth beyond noise; else why it can't be told.
    """
    if measured is None or measured.steps < _GROWTH_STEPS:
        return f"fewer than {_GROWTH_STEPS} steps were measured"
    if reading not in samples:
        return "the sampler took no reading of memory"
    chosen = _undisturbed(samples, measured, (samples[reading] != ABSENT) & (samples["step"] >= measured.warmup))
    at, values = samples["step"][chosen].astype(np.float64), samples[reading][chosen].astype(np.float64)
    if len(at) < _GROWTH_READINGS:
        return "too few readings of memory were taken"
    thin = np.unique(np.linspace(0, len(at) - 1, _GROWTH_POINTS).astype(np.int64))
    at, values = at[thin], values[thin]
    if not noise.rises(values):
        return None
    slope = noise.theil_sen(at, values)
    total = slope * float(at[-1] - at[0])
    if total < max(_GROWTH_SIGMA * _scatter(at, values, slope), _LEAST_GROWTH_BYTES):
        return None
    return slope, int(total), int(at[-1] - at[0])


def _undisturbed(samples: Columns, measured: Measured, chosen: Bools) -> Bools:
    """The longest stretch of readings between steps in which something of ours or the compiler ran.

    Both leave memory behind, which is no growth of the training's.
    """
    disturbed = measured.columns["index"][(measured.column("flags") & int(LEFT_OUT)) != 0]
    stretch = np.searchsorted(disturbed, samples["step"])
    chosen = chosen & ~np.isin(samples["step"], disturbed)
    longest = int(np.argmax(np.bincount(stretch[chosen]))) if chosen.any() else 0
    result: Bools = chosen & (stretch == longest)
    return result


def _scatter(at: Floats, values: Floats, slope: float) -> float:
    rest = values - slope * at
    return noise.sigma(rest, np.ones(len(rest), dtype=np.int64))


def _whole(note: Mapping[str, Any], name: str) -> int | None:
    size = note.get(name)
    return size if isinstance(size, int) and size >= 0 else None


def _categories(note: Mapping[str, Any]) -> dict[str, int]:
    given = note.get("categories")
    if not isinstance(given, dict):
        return {}
    return {str(name): int(size) for name, size in given.items() if isinstance(size, int)}


def _modules(note: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    given = note.get("activations_by_module")
    rows = [(str(row[0]), int(row[1])) for row in given] if isinstance(given, list) else []
    return tuple(sorted(rows, key=lambda row: -row[1]))


def _timeline(samples: Columns, began_ns: int) -> tuple[MemorySample, ...]:
    """At most 600 readings, evenly over the run; each stretch shows its highest."""
    if _RSS not in samples:
        return ()
    taken = np.flatnonzero(samples[_RSS] != ABSENT)
    device = samples.get(_ALLOCATED)
    found = []
    for stretch in np.array_split(taken, min(_TIMELINE_POINTS, len(taken))) if len(taken) else []:
        at = int(stretch[np.argmax(samples[_RSS][stretch])])
        on_device = int(device[stretch].max()) if device is not None else ABSENT
        found.append(
            MemorySample(
                time_s=(int(samples["time_ns"][at]) - began_ns) / 1e9,
                rss_bytes=int(samples[_RSS][at]),
                device_bytes=on_device if on_device != ABSENT else None,
            )
        )
    return tuple(found)
