"""What both benchmarks of cost in the loop share: blocks of steps in turn, two clocks, and intervals.

Wall time, and the training thread's CPU time, in which other programs' turns on the core do not count (their use of
its caches does).
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig

WARM_STEPS = 24  # of a block: past the search for root modules
CLOCKS = {"wall": time.perf_counter_ns, "CPU": time.thread_time_ns}
_RESAMPLED = 2000

Step = Callable[[], None]
Block = dict[str, float]  # by clock: the step, µs
Average = Callable[[Sequence[int]], float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over rounds, in µs, and the interval that holds it."""

    us: float
    low_us: float
    high_us: float

    def __str__(self) -> str:
        return f"{self.us:+.1f} µs ({self.low_us:+.1f} … {self.high_us:+.1f})"


def estimate(values: Sequence[float]) -> Estimate:
    """The median, and the 95 % interval of medians of as many values drawn again."""
    random = np.random.default_rng(0)
    drawn = np.median(random.choice(values, (_RESAMPLED, len(values))), axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(statistics.median(values), float(low), float(high))


def lower_quartile(times: Sequence[int]) -> float:
    """The step that a quarter are faster than: other programs only ever make steps slower."""
    return statistics.quantiles(times, n=4)[0]


def block(step: Step, steps: int, average: Average = lower_quartile) -> Block:
    """The average of so many steps after those that warm up, by each clock."""
    for _ in range(WARM_STEPS):
        step()
    gc.collect()
    times: dict[str, list[int]] = {name: [] for name in CLOCKS}
    for _ in range(steps):
        began = [clock() for clock in CLOCKS.values()]
        step()
        for name, clock, start in zip(CLOCKS, CLOCKS.values(), began, strict=True):
            times[name].append(clock() - start)
    return {name: average(each) / 1e3 for name, each in times.items()}


def recorded_block(
    step: Step, steps: int, folder: Path, average: Average = lower_quartile, late: bool = False
) -> Block:
    """The same while recording. `late`: what the step is made of is older than the recording."""
    (folder / "processes").mkdir(parents=True)
    session = begin(CaptureConfig(folder, deep=False, late=late))
    found = block(step, steps, average)
    assert session.active
    end(session)
    return found
