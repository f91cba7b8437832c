"""Stage times against the timers of a training that times itself, in the same run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.commands import last_line, prof

DEVICE_SCRIPT = Path(__file__).parent / "device_timed.py"
SCRIPT = Path(__file__).parents[1] / "tests" / "scenarios" / "hand_timed.py"


@dataclass(frozen=True)
class Agreement:
    """One stage, by hand and by us; medians over the steps after warm-up, in ms."""

    case: str
    stage: str
    by_hand_ms: float
    ours_ms: float

    @property
    def error_share(self) -> float:
        """Our figure's relative error."""
        return self.ours_ms / self.by_hand_ms - 1

    @property
    def holds(self) -> bool:
        """Within 2 % for stages of 1 ms and more, within 5 % for smaller ones."""
        return abs(self.error_share) <= (0.02 if self.by_hand_ms >= 1 else 0.05)


def run() -> list[Agreement]:
    """Steps of milliseconds, steps of less than one, and where there is a GPU those by its own clock."""
    cases = {"long steps": [str(SCRIPT)], "short steps": [str(SCRIPT), "--short"]}
    if torch.cuda.is_available():
        cases[torch.cuda.get_device_name()] = [str(DEVICE_SCRIPT)]
    found: list[Agreement] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, command in cases.items():
            by_hand = last_line(prof(folder, case.replace(" ", "-"), *command), folder)
            summary = json.loads((folder / case.replace(" ", "-") / "summary.json").read_text("utf-8"))
            warmup = summary["steps"]["warmup"]
            rows = {**by_hand["stages_ms"], "step": by_hand["steps_ms"]}
            for stage, times in rows.items():
                ours = summary["steps"] if stage == "step" else summary["stages"][stage]
                found.append(Agreement(case, stage, median(times[warmup:]), ours["median_ms"]))
    return found
