"""Stage times against the timers of a training that times itself, in the same run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.commands import last_line, prof

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
    """Steps of milliseconds, and steps of less than one."""
    found: list[Agreement] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, arguments in {"long steps": [], "short steps": ["--short"]}.items():
            by_hand = last_line(prof(folder, case.replace(" ", "-"), str(SCRIPT), *arguments), folder)
            summary = json.loads((folder / case.replace(" ", "-") / "summary.json").read_text("utf-8"))
            warmup = summary["steps"]["warmup"]
            rows = {**by_hand["stages_ms"], "step": by_hand["steps_ms"]}
            for stage, times in rows.items():
                ours = summary["steps"] if stage == "step" else summary["stages"][stage]
                found.append(Agreement(case, stage, median(times[warmup:]), ours["median_ms"]))
    return found
