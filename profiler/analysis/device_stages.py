"""Stage times on the device's own clock.

In:  the steps that were timed on the device, and the facts of the stages by the host's clock.
Out: the same stages by the device's clock; or why there are none.

A stage lasts, on the device, from the moment at which the device reaches the boundary where the stage begins until it
reaches the boundary where it ends. That includes what the device idles in between: where the host is late, its time
shows up in the stage in which the device ran dry. What the host does while the device still works on earlier stages
costs nothing. A step is the sum of its stages, from boundary to boundary, so that shares are exact; as milliseconds
they are laid on the mean step of the whole run, of which the timed steps are a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis import noise
from profiler.analysis.asides import Columns
from profiler.analysis.facts import StageFacts, Timeline
from profiler.analysis.folded import Folded
from profiler.analysis.measured import NS_PER_MS, Measured
from profiler.analysis.noise import Floats

FEWEST_STEPS = 5
CLOCKS_AGREE = 0.25  # mean step by the device's clock against the same steps by the host's
_MOST_ROWS = 600


@dataclass(frozen=True, slots=True)
class DeviceSteps:
    """The measured steps that were timed on the device."""

    columns: Columns

    @property
    def count(self) -> int:
        return len(self.columns["index"])

    @property
    def wall_ms(self) -> Floats:
        return self.columns["wall_ns"] / NS_PER_MS

    def part_ms(self, label: int) -> Floats:
        """Time under one label."""
        found = self.columns.get(f"part_{label}")
        return np.zeros(self.count) if found is None else found / NS_PER_MS

    def stage_ms(self, stage: str) -> Floats:
        """Time in one stage."""
        return sum((self.part_ms(label) for label in lab.labels_of(stage)), np.zeros(self.count))


def device_steps(measured: Measured, folded: Folded) -> DeviceSteps | str:
    """The timed steps among the measured ones; or why stage times can't be taken from them, as a clause."""
    columns = folded.device_steps.columns()
    if not columns:
        return "no step was timed on the device"
    at = np.searchsorted(measured.index, columns["index"])
    known = at < len(measured.index)
    known[known] = measured.index[at[known]] == columns["index"][known]
    known &= columns["wall_ns"] > 0
    timed = DeviceSteps({name: column[known] for name, column in columns.items()})
    if timed.count < FEWEST_STEPS:
        return f"{timed.count} measured steps were timed on the device, {FEWEST_STEPS} are needed"
    host_ms = measured.wall_ms()[at[known]]
    if abs(float(timed.wall_ms.mean()) / float(host_ms.mean()) - 1) > CLOCKS_AGREE:
        return "the events did not see the device's work: by its clock the steps are of another length"
    return timed


def on_device_clock(
    stages: Mapping[str, StageFacts], timed: DeviceSteps, mean_step_ms: float, user_parts: Mapping[int, str]
) -> dict[str, StageFacts]:
    """The stages with the device's times in the host's place; `mean_step_ms` is that of all measured steps."""
    device_step_ms = float(timed.wall_ms.mean())
    ones = np.ones(timed.count, dtype=np.int64)
    result = {}
    for name, stage in stages.items():
        times = timed.stage_ms(name)
        share = float(times.mean()) / device_step_ms
        mean_ms = share * mean_step_ms
        parts: dict[str, float] = {}
        for label in lab.labels_of(name):
            part = lab.PARTS[label][1] if label < lab.FIRST_USER else user_parts.get(label, "")
            took = float(timed.part_ms(label).mean()) / device_step_ms * mean_step_ms
            if part and (took > 0 or part in stage.parts_ms):
                parts[part] = parts.get(part, 0.0) + took
        result[name] = replace(
            stage,
            median_ms=noise.median(times, ones),
            mean_ms=mean_ms,
            p5_ms=noise.quantile(times, ones, 0.05),
            p95_ms=noise.quantile(times, ones, 0.95),
            share=share,
            parts_ms=parts,
            host_ms=stage.mean_ms,
            lines=tuple(replace(line, ms_per_step=line.share_of_stage * mean_ms) for line in stage.lines),
        )
    return result


def device_timeline(drawn: Timeline, measured: Measured, timed: DeviceSteps) -> Timeline:
    """The host's timeline with the device's stages: rows are as long as it takes to hold a timed step."""
    index, weight = measured.columns["index"], measured.columns["weight"]
    per_row = max(drawn.steps_per_row, int(np.ceil(measured.count / min(_MOST_ROWS, timed.count))))
    row, timed_row = index // per_row, timed.columns["index"] // per_row
    rows = np.unique(timed_row)
    place = np.searchsorted(rows, row)
    held = (place < len(rows)) & (rows[np.minimum(place, len(rows) - 1)] == row)
    place, wall = place[held], (measured.columns["wall_ns"] / NS_PER_MS)[held]
    total = np.bincount(place, weights=weight[held], minlength=len(rows))
    slowest = np.zeros(len(rows))
    np.maximum.at(slowest, place, wall)
    starts = measured.columns["start_ns"][held][np.unique(place, return_index=True)[1]]
    mean = np.bincount(place, weights=weight[held] * wall, minlength=len(rows)) / total
    timed_place = np.searchsorted(rows, timed_row)
    of_row = np.bincount(timed_place, weights=timed.wall_ms, minlength=len(rows))
    stages = {
        name: np.bincount(timed_place, weights=timed.stage_ms(name), minlength=len(rows)) / of_row * mean
        for name in drawn.stages_ms
    }
    return Timeline(
        steps_per_row=per_row,
        start_s=tuple(((starts - measured.first_ns) / 1e9).tolist()),
        wall_ms=tuple(mean.tolist()),
        max_ms=tuple(slowest.tolist()),
        stages_ms={name: tuple(values.tolist()) for name, values in stages.items()},
    )
