"""Stage times against the timers of a training that times itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

pytestmark = pytest.mark.flaky(reruns=2)  # another program on the machine can upset what lasts for seconds

SCRIPT = Path(__file__).parent / "hand_timed.py"
STAGES = ("data_wait", "forward", "backward", "optimizer")


def measured_both_ways(folder: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The script's own times of one run, and the profiler's summary of the same run.

    Without the deep window: the steps in which it runs are in the script's means and not in ours.
    """
    prof = [
        sys.executable,
        "-m",
        "profiler.cli.main",
        "attach",
        "-o",
        str(folder),
        "--name",
        "run",
        "--quiet",
    ]
    done = subprocess.run([*prof, str(SCRIPT), *arguments], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), json.loads((folder / "run" / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--short",)], ids=["long", "short"])
def test_stage_times_agree_with_hand_timers(arguments: tuple[str, ...], tmp_path: Path) -> None:
    by_hand, summary = measured_both_ways(tmp_path, *arguments)
    warmup = summary["steps"]["warmup"]
    assert abs(summary["steps"]["count"] - len(by_hand["stages_ms"]["forward"])) <= 1
    for stage in STAGES:
        true_ms = mean(by_hand["stages_ms"][stage][warmup:])
        allowed_ms = 0.02 * true_ms if true_ms >= 1 else max(0.05 * true_ms, 0.02)
        assert summary["stages"][stage]["mean_ms"] == pytest.approx(true_ms, abs=allowed_ms), stage


@pytest.mark.slow
def test_the_stages_sum_to_the_step_and_the_step_to_the_wall_clock(tmp_path: Path) -> None:
    by_hand, summary = measured_both_ways(tmp_path)
    mean_ms = sum(stage["mean_ms"] for stage in summary["stages"].values())
    assert mean_ms == pytest.approx(summary["steps"]["mean_ms"], rel=1e-5)
    assert sum(stage["share"] for stage in summary["stages"].values()) == pytest.approx(1.0, abs=1e-5)
    true_ms = mean(by_hand["steps_ms"][summary["steps"]["warmup"] :])
    assert summary["steps"]["mean_ms"] == pytest.approx(true_ms, rel=0.02)
