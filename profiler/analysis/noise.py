"""Spread, warm-up, drift and outliers of a series of step times.

In:  step times in order, each with its weight (for how many steps it stands).
Out: numbers that tell what is noise and what is not. All are robust: a few stalls move none of them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from profiler.analysis.stack import Bools, Ints

Floats = npt.NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
WARM_UP_SIGMA = 3.0
WARM_UP_SHARE = 0.10
STEADY_RUN = 3
START_UP_TIMES = 2.0
OUTLIER_SIGMA = 5.0
OUTLIER_SHARE = 0.5
_DRIFT_BLOCKS = 4
_DRIFT_STEPS = 30


def quantile(values: Floats, weights: Ints, share: float) -> float:
    """The weighted quantile; with equal weights the usual one, the median of an even count being the mean of two."""
    order = np.argsort(values, kind="stable")
    ranked, weight = values[order], weights[order].astype(np.float64)
    middles = np.cumsum(weight) - weight / 2
    return float(np.interp(share * weight.sum(), middles, ranked))


def median(values: Floats, weights: Ints) -> float:
    """The weighted median."""
    return quantile(values, weights, 0.5)


def sigma(values: Floats, weights: Ints) -> float:
    """Standard deviation as told by the median absolute deviation."""
    return MAD_TO_SIGMA * median(np.abs(values - median(values, weights)), weights)


def warm_up(walls: Floats, weights: Ints, usable: Bools) -> int:
    """The number of rows at the start that are warm-up.

    The second half of the run says what is steady: its median, give or take the larger of 3 sigma (from its median
    absolute deviation) and 10 %. Warm-up ends where three steps in a row are no longer than that. It is at least one
    step, since the first one allocates, and at most a third of them. Steps that are not `usable` (compilation) are
    as good as too long.
    """
    count = len(walls)
    if count < 2:
        return 0
    half = np.arange(count) >= count // 2
    reference = half & usable if bool((half & usable).any()) else half
    middle = median(walls[reference], weights[reference])
    limit = middle + max(WARM_UP_SIGMA * sigma(walls[reference], weights[reference]), WARM_UP_SHARE * middle)
    most = max(1, count // 3)
    steady = (walls <= limit) & usable
    run = min(STEADY_RUN, count - most)
    for first in range(1, most):
        if bool(steady[first : first + run].all()):
            return first
    return most


def start_up(walls: Floats, weights: Ints, usable: Bools) -> int:
    """The number of steps at the start of a short recording that are start-up beyond doubt.

    Whoever records a few steps has mostly warmed up before: a step counts as start-up only where it takes more than
    twice the median of all, and where there are enough to tell.
    """
    count = len(walls)
    if count < STEADY_RUN:
        return 0
    limit = START_UP_TIMES * median(walls, weights)
    most = max(1, count // 3)
    long = (walls > limit) | ~usable
    return int(np.argmin(long[:most])) if not bool(long[:most].all()) else most


def median_noise(values: Floats, weights: Ints) -> float:
    """Half the width of the 95 % interval of the median, by order statistics."""
    count = int(weights.sum())
    if count < 2:
        return 0.0
    half = 0.98 / math.sqrt(count)
    low, high = (
        quantile(values, weights, max(0.5 - half, 0.0)),
        quantile(values, weights, min(0.5 + half, 1.0)),
    )
    return (high - low) / 2


def drift_share(values: Floats, weights: Ints) -> float | None:
    """Change of the median from the first to the last third, as a share; None when it is within noise.

    Each third is read in four blocks. A change counts when no block of the one third lies within the blocks of the
    other, and when it is larger than the noise of both medians: slow swings within a third are noise too.
    """
    third = len(values) // 3
    if third * 3 < _DRIFT_STEPS:
        return None
    first, last = slice(0, third), slice(len(values) - third, len(values))
    low, high = _block_medians(values[first], weights[first]), _block_medians(values[last], weights[last])
    if not (max(low) < min(high) or max(high) < min(low)):
        return None
    before, after = median(values[first], weights[first]), median(values[last], weights[last])
    noise = median_noise(values[first], weights[first]) + median_noise(values[last], weights[last])
    if abs(after - before) <= noise or before <= 0:
        return None
    return (after - before) / before


def _block_medians(values: Floats, weights: Ints) -> list[float]:
    blocks = zip(np.array_split(values, _DRIFT_BLOCKS), np.array_split(weights, _DRIFT_BLOCKS), strict=True)
    return [median(block, weight) for block, weight in blocks]


def outlier_limit(values: Floats, weights: Ints) -> float:
    """Steps longer than this are outliers: the median and the larger of 5 sigma and half of it."""
    middle = median(values, weights)
    return middle + max(OUTLIER_SIGMA * sigma(values, weights), OUTLIER_SHARE * middle)


def theil_sen(at: Floats, values: Floats) -> float:
    """The median slope between all pairs of points; for a few hundred points."""
    first, second = np.triu_indices(len(at), k=1)
    run = at[second] - at[first]
    slopes = (values[second] - values[first])[run != 0] / run[run != 0]
    return float(np.median(slopes)) if len(slopes) else 0.0


def rises(values: Floats, blocks: int = 8) -> bool:
    """Whether a series rises beyond chance: the medians of eight blocks by Mann and Kendall's test, at 1 %."""
    if len(values) < 3 * blocks:
        return False
    medians = np.array([np.median(block) for block in np.array_split(values, blocks)])
    first, second = np.triu_indices(blocks, k=1)
    score = int(np.sign(medians[second] - medians[first]).sum())
    return score >= math.ceil(2.33 * math.sqrt(blocks * (blocks - 1) * (2 * blocks + 5) / 18)) + 1
