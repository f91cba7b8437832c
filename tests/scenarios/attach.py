"""Scenarios run as a user runs them: one by itself, or two side by side, as a planted training and its cured twin.

Side by side, each on a core of its own, takes half the time; but they share caches and memory, one more than the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labels import Label

from profiler.rules.gains import MeasuredGain, measured_gains

LIMIT_S = 120
SPARE = 0.01


@dataclass(frozen=True, slots=True)
class Pair:
    """The summaries of two trainings."""

    first: dict[str, Any]
    second: dict[str, Any]


def kept_promises() -> dict[str, MeasuredGain]:
    """By training: the promises that held when they were last measured, with something to spare."""
    return {gain.scenario: gain for gain in measured_gains() if gain.holds_by(SPARE)}


def attach(label: Label, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a scenario under the profiler, and return its summary."""
    return _summary(_start(label, folder, *arguments), folder)


def side_by_side(first: Label, second: Label, folder: Path, *arguments: str) -> Pair | None:
    """Both at once, the second with these arguments; None where there are no cores for both."""
    if first.cores + second.cores > (os.cpu_count() or 1):
        return None
    folders = (folder / "first", folder / "second")
    for each in folders:
        each.mkdir()
    running = (_start(first, folders[0]), _start(second, folders[1], *arguments))
    try:
        return Pair(*(_summary(process, each) for process, each in zip(running, folders, strict=True)))
    finally:
        for process in running:
            process.kill()


def one_after_the_other(label: Label, folder: Path) -> Pair:
    """The planted training, then its cured twin."""
    folders = (folder / "first", folder / "second")
    for each in folders:
        each.mkdir()
    return Pair(attach(label, folders[0]), attach(label, folders[1], "--cured"))


def _start(label: Label, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "pyproject.toml").write_text(label.pyproject)
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
