"""Steps for drawing: decimated, with nothing hidden.

In:  `Measured`.
Out: `Timeline` (at most 600 rows, each with its slowest step) and `Histogram` (at most 60 bins).
"""

from __future__ import annotations

import math

import numpy as np

from profiler.analysis import noise
from profiler.analysis.facts import Histogram, Timeline
from profiler.analysis.measured import NS_PER_MS, Measured
from profiler.record.vocabulary import STAGE_ORDER

_MOST_ROWS = 600
_MOST_BINS = 60


def timeline(measured: Measured) -> Timeline:
    """All steps, warm-up too, in rows of equally many steps."""
    index, weight = measured.columns["index"], measured.columns["weight"]
    per_row = math.ceil(measured.count / _MOST_ROWS)
    row = index // per_row
    _, first, place = np.unique(row, return_index=True, return_inverse=True)
    total = np.bincount(place, weights=weight)
    wall = measured.columns["wall_ns"] / NS_PER_MS
    slowest = np.zeros(len(first))
    np.maximum.at(slowest, place, wall)
    stages = {
        name: np.bincount(place, weights=weight * measured.stage_ns(name)) / total / NS_PER_MS for name in STAGE_ORDER
    }
    return Timeline(
        steps_per_row=per_row,
        start_s=tuple(((measured.columns["start_ns"][first] - measured.first_ns) / 1e9).tolist()),
        wall_ms=tuple((np.bincount(place, weights=weight * wall) / total).tolist()),
        max_ms=tuple(slowest.tolist()),
        stages_ms={name: tuple(values.tolist()) for name, values in stages.items() if bool(values.any())},
    )


def histogram(measured: Measured) -> Histogram:
    """Distribution of the measured steps. The last bin takes in all that is longer than the 99th percentile's reach."""
    walls, weights = measured.wall_ms(), measured.weights
    low, high = float(walls.min()), float(walls.max())
    if high <= low:
        return Histogram((low, low + max(low * 0.01, 1e-6)), (int(weights.sum()),))
    bins = min(_MOST_BINS, max(5, math.ceil(2 * len(walls) ** (1 / 3))))
    reach = noise.quantile(walls, weights, 0.99) + 3 * noise.sigma(walls, weights)
    if low < reach < high:
        edges = np.append(np.linspace(low, reach, bins), high)
    else:
        edges = np.linspace(low, high, bins + 1)
    counts, _ = np.histogram(walls, bins=edges, weights=weights)
    return Histogram(tuple(edges.tolist()), tuple(round(count) for count in counts.tolist()))
