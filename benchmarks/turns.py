"""What both benchmarks of cost in the loop share: steps or blocks of them in turn, two clocks, and intervals.

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
from random import Random

import numpy as np

from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig

WARM_STEPS = 24  # of a block: past the search for root modules
CLOCKS = {"wall": time.perf_counter_ns, "CPU": time.thread_time_ns}
_RESAMPLED = 2000

Step = Callable[[], None]
Block = dict[str, float]  # by clock: the step, µs
Timed = Callable[[], dict[str, int]]  # takes a step; ns by clock
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


def timed(step: Step, before: Callable[[], None]) -> Timed:
    """A step by each clock, after something that is not timed."""

    def take() -> dict[str, int]:
        before()
        began = [clock() for clock in CLOCKS.values()]
        step()
        return {name: clock() - start for (name, clock), start in zip(CLOCKS.items(), began, strict=True)}

    return take


def exchanged(one: Timed, other: Timed, seconds: float, least: int = 50) -> dict[str, Estimate]:
    """How much longer a step of `one` is than of `other`, by clock, from cycles of two and two.

    In random order: a collection of garbage, or a loader's next batch, comes every so many steps.
    """
    random = Random(0)
    longer: dict[str, list[float]] = {clock: [] for clock in CLOCKS}
    until_s = time.monotonic() + seconds
    cycle = 0
    while cycle < least or time.monotonic() < until_s:
        cycle += 1
        sums = dict.fromkeys(CLOCKS, 0)
        for sign in random.sample((1, 1, -1, -1), 4):
            for clock, took_ns in (one if sign > 0 else other)().items():
                sums[clock] += sign * took_ns
        for clock, total_ns in sums.items():
            longer[clock].append(total_ns / 2e3)
    return {clock: estimate(values) for clock, values in longer.items()}


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
