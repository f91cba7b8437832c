"""Scenarios run as a user runs them: one by itself, or a planted training and its cured twin side by side.

Side by side, each on a core of its own, takes half the time, and whatever else the machine does falls on both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from labels import Label

from profiler.analysis.build import read_facts

LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Pair:
    """The summaries of two trainings that ran side by side, and how much faster the second one's steps were then."""

    planted: dict[str, Any]
    cured: dict[str, Any]
    speedup: float


def attach(label: Label, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a scenario under the profiler, and return its summary."""
    return _summary(_start(label, folder, *arguments), folder)


def side_by_side(label: Label, folder: Path) -> Pair | None:
    """Both twins at once; None where there are no cores for both."""
    if 2 * label.cores > (os.cpu_count() or 1):
        return None
    folders = (folder / "planted", folder / "cured")
    for each in folders:
        each.mkdir()
    running = (_start(label, folders[0]), _start(label, folders[1], "--cured"))
    planted, cured = (_summary(process, each) for process, each in zip(running, folders, strict=True))
    return Pair(planted, cured, _speedup(*folders))


def _start(label: Label, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "pyproject.toml").write_text(_settings(label))
    prof = [sys.executable, "-m", "profiler.cli.main", "attach", "-o", str(folder), "--name", "run", "--quiet"]
    command = [*prof, *label.command, *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _summary(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    try:
        _, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, errors
    summary: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text())
    return summary


def _settings(label: Label) -> str:
    """The thresholds that a script asks for, as a pyproject.toml."""
    rules: dict[str, list[str]] = {}
    for rule, threshold, value in label.settings:
        rules.setdefault(rule, []).append(f"{threshold} = {value}")
    return "\n".join(line for rule, lines in rules.items() for line in (f'[tool.prof.rules."{rule}"]', *lines)) + "\n"


def _speedup(planted: Path, cured: Path) -> float:
    """Of the steps that both made while both ran, after a tenth of that time; 0.0 where there are too few."""
    timelines = [read_facts(folder / "run").timeline for folder in (planted, cured)]
    both = [(it.start_s, it.wall_ms) for it in timelines if it is not None and it.start_s]
    if len(both) < 2:
        return 0.0
    until_s = min(start_s[-1] for start_s, _ in both)
    shared = [[ms for s, ms in zip(*it, strict=True) if 0.1 * until_s < s <= until_s] for it in both]
    return mean(shared[0]) / mean(shared[1]) if min(map(len, shared)) >= 10 else 0.0
