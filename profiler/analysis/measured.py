"""The steps that statistics are made of: those after warm-up in which nothing of ours ran.

In:  `Folded`.
Out: `Measured`: the step table as arrays, and which rows count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiler.analysis import labels as lab
from profiler.analysis import noise
from profiler.analysis.asides import Columns
from profiler.analysis.block import LEFT_OUT
from profiler.analysis.folded import Folded
from profiler.analysis.noise import Floats
from profiler.analysis.stack import Bools, Ints

NS_PER_MS = 1e6
WarmUp = Callable[[Floats, Ints, Bools], int]


@dataclass(frozen=True, slots=True)
class Measured:
    """Steps in order. Arrays are over the rows of the table, which may each stand for several steps."""

    columns: Columns
    count: int  # steps in all, exact
    warmup: int  # steps left out at the start
    rows: Bools  # which rows are measured

    @property
    def weights(self) -> Ints:
        """Weights of the measured rows."""
        return self.columns["weight"][self.rows]

    @property
    def steps(self) -> int:
        """For how many steps the measured rows stand."""
        return int(self.weights.sum())

    @property
    def index(self) -> Ints:
        """Numbers of the measured steps."""
        return self.columns["index"][self.rows]

    def column(self, name: str) -> Ints:
        """A column over all rows; zeros where it was never filled."""
        return self.columns.get(name, np.zeros(len(self.columns["index"]), dtype=np.int64))

    def wall_ms(self) -> Floats:
        """Step times of the measured rows."""
        return self.columns["wall_ns"][self.rows] / NS_PER_MS

    def part_ms(self, label: int) -> Floats:
        """Time under one label, measured rows."""
        return self.column(f"part_{label}")[self.rows] / NS_PER_MS

    def stage_ns(self, stage: str) -> npt.NDArray[np.int64]:
        """Time in a stage, all rows."""
        total = np.zeros(len(self.columns["index"]), dtype=np.int64)
        for label in lab.labels_of(stage):
            if f"part_{label}" in self.columns:
                total += self.columns[f"part_{label}"]
        return total

    def mean(self, values: Floats | Ints) -> float:
        """Weighted mean over the measured rows."""
        return float(np.average(values, weights=self.weights))

    @property
    def first_ns(self) -> int:
        """When the first step began."""
        return int(self.columns["start_ns"][0])

    @property
    def window_ns(self) -> tuple[int, int]:
        """From the first to the end of the last measured step."""
        start, wall = self.columns["start_ns"][self.rows], self.columns["wall_ns"][self.rows]
        return int(start[0]), int(start[-1] + wall[-1])


def measured_steps(folded: Folded, warm_up: WarmUp = noise.warm_up) -> Measured | None:
    """The measured steps; None when there was no step at all. `warm_up` says how many at the start are not."""
    columns = folded.steps.columns()
    if not columns or len(columns["index"]) == 0:
        return None
    usable: Bools = (columns.get("flags", np.zeros(len(columns["index"]), np.int64)) & int(LEFT_OUT)) == 0
    warm = warm_up(columns["wall_ns"].astype(np.float64), columns["weight"], usable)
    rows = usable.copy()
    rows[:warm] = False
    if not bool(rows.any()):  # a run of few steps, all of them with compilation: better those than none
        rows[warm:] = True
    return Measured(columns, folded.carry.steps, int(columns["weight"][:warm].sum()), rows)
