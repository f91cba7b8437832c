"""Ranks that die, hang or fail: the run stays usable, and says where each rank stood."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launching import EACH, HEAD, environment

TRAINING = (
    HEAD
    + """
from datetime import timedelta

model = DDP(torch.nn.Linear(64, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(10_000):
    model(torch.randn(8, 64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    if step == 60 and rank == 1:
        FAULT
    dist.all_reduce(torch.ones(1))
    if step == 60:
        print("PASSED", flush=True)
"""
)


def line_of(text: str) -> int:
    source = TRAINING.splitlines()
    return next(number for number, line in enumerate(source, start=1) if text in line)


def run_with(folder: Path, fault: str, hang_s: float | None = None) -> tuple[dict[str, Any], str]:
    """The summary of a job in which rank 1 has a fault; one that hangs is ended by SIGTERM after a while."""
    script = folder / "train.py"
    script.write_text(TRAINING.replace("FAULT", fault))
    prof = [sys.executable, "-m", "profiler.cli.main", "attach", "-o", str(folder), "--name", "run"]
    command = [*prof, "--", "bash", "-c", EACH, "ranks", sys.executable, str(script)]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(2), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if hang_s is not None:
        end_when_hung(process, folder / "run", hang_s)
    _, errors = process.communicate(timeout=90)
    return json.loads((folder / "run" / "summary.json").read_text()), errors


def end_when_hung(process: subprocess.Popen[str], run: Path, hang_s: float) -> None:
    """Wait until the ranks have trained and then stood still for so long; then end the job as a scheduler would."""
    marker = run.parent / "hung"
    until_s = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < until_s:
        time.sleep(0.1)
    time.sleep(hang_s)
    process.send_signal(signal.SIGTERM)


def test_a_rank_that_hangs_is_named_with_the_line_at_which_it_stands(tmp_path: Path) -> None:
    fault = f"open({str(tmp_path / 'hung')!r}, 'w').close(); time.sleep(600)"
    summary, errors = run_with(tmp_path, fault, hang_s=4.0)
    hang = summary["ranks"]["hang"]
    assert hang is not None, errors
    assert (hang["collective"], hang["arrived"], hang["absent"]) == ("all_reduce", [0], [1])
    assert hang["for_s"] > 2
    assert hang["sites"]["0"]["line"] == line_of("dist.all_reduce")
    assert hang["sites"]["1"]["line"] == line_of("FAULT")
    assert "rank 0 was in all_reduce" in " ".join(errors.split())


def test_a_rank_that_is_killed_leaves_a_run_that_says_so(tmp_path: Path) -> None:
    summary, errors = run_with(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    ranks = summary["ranks"]
    assert ranks["recorded"] == [0, 1], errors
    assert {row["rank"]: row["state"] for row in ranks["rows"]}[1] == "ended without an orderly end"
    assert ranks["typical"] == 0 and summary["steps"]["count"] >= 50
    hang = ranks["hang"]  # rank 0's collective failed under it
    assert hang is not None and hang["collective"] == "all_reduce" and 1 in hang["absent"]


def test_a_rank_that_raises_keeps_its_own_exception(tmp_path: Path) -> None:
    summary, errors = run_with(tmp_path, "raise ZeroDivisionError('planted')")
    assert "ZeroDivisionError: planted" in errors and "recording stopped" not in errors
    assert summary["ranks"]["recorded"] == [0, 1] and summary["steps"]["count"] >= 50
