"""What rules promise beside what their cure gives: each planted training and its cured twin, in alternation.

The promise is that of a run of its own. Then both trainings run at once, in turn for some tenths of a second each while
the other is stopped, so that whatever else the machine does falls on both. A step's time is the mean of those in which
nothing was stopped. Where the compiler runs within the steps, and on several ranks, they run one after the
other; the compiler's time counts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.commands import prof
from profiler.analysis.build import read_facts
from profiler.rules.gains import GAINS, MeasuredGain

SCENARIOS = Path(__file__).parents[1] / "tests" / "scenarios"
DOCS = Path(__file__).parents[1] / "docs" / "rules"
TURN_S = 0.4
STRETCHES = 10

sys.path.insert(0, str(SCENARIOS))
from labels import Label, scenarios  # noqa: E402


def planted() -> list[Label]:
    """The trainings that prove a rule of their own."""
    return [label for label in scenarios() if label.rules and label.cured]


def run(names: tuple[str, ...] = ()) -> Iterator[MeasuredGain]:
    """Each rule that promises something in its training; of all trainings, or of those named."""
    for label in planted():
        if names and label.name not in names:
            continue
        try:
            yield from compare(label)
        except RuntimeError as error:
            print(f"{label.name} was left out: {error}", file=sys.stderr)


def compare(label: Label) -> list[MeasuredGain]:
    """A planted training against its cured twin."""
    with tempfile.TemporaryDirectory() as name:
        summary = summary_of(label, Path(name))
    return against_twin(label, summary)


def against_twin(label: Label, summary: dict[str, Any]) -> list[MeasuredGain]:
    """What the label's rules promised in that run of the planted training, beside what the cured twin gives."""
    if label.ranks > 1 or any(span["name"] == "compile" for span in summary["spans"]):
        with tempfile.TemporaryDirectory() as name:
            planted_ms, cured_ms = step_ms(summary), step_ms(summary_of(label, Path(name), "--cured"))
        noise = 0.0
    else:
        planted_ms, cured_ms, noise = in_alternation(label)
    found = []
    for rule in label.rules:
        gain = next((it["gain"] for it in summary["findings"] if it["rule"] == rule and it["gain"]), None)
        if gain is not None:
            low, high = round(gain["speedup_low"], 3), round(gain["speedup_high"], 3)
            measured = round(planted_ms / cured_ms, 3)
            steps = (round(planted_ms, 3), round(cured_ms, 3))
            found.append(MeasuredGain(rule, label.name, low, high, measured, *steps, round(noise, 3)))
    return found


def in_alternation(label: Label) -> tuple[float, float, float]:
    """Mean milliseconds of a step, planted and cured, and the noise of their ratio as a share of it.

    Raises RuntimeError where a training fails.
    """
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        folders = (Path(first), Path(second))
        trainings = [start(label, folders[0]), start(label, folders[1], "--cured")]
        try:
            _take_turns(trainings)
        finally:
            for training in trainings:
                if training.poll() is None:
                    os.killpg(training.pid, signal.SIGKILL)
                training.wait()
        planted, cured = (_undisturbed(folder / "run") for folder in folders)
        return _mean_ms(planted), _mean_ms(cured), _noise(planted, cured)


Steps = list[tuple[float, float]]  # seconds since the first step, milliseconds


def _take_turns(trainings: list[subprocess.Popen[str]]) -> None:
    """Let each run for a while, the other stopped, until one has ended; the rest runs by itself."""
    while all(training.poll() is None for training in trainings):
        for mine, other in (trainings, trainings[::-1]):
            if other.poll() is None:
                os.killpg(other.pid, signal.SIGSTOP)
            if mine.poll() is None:
                os.killpg(mine.pid, signal.SIGCONT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    mine.wait(TURN_S)
    for training in trainings:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGCONT)
        _, errors = training.communicate()
        if training.returncode:
            raise RuntimeError(f"{training.args} failed: {errors.strip()}")


def _mean_ms(steps: Steps) -> float:
    return statistics.mean(ms for _, ms in steps)


def _noise(planted: Steps, cured: Steps) -> float:
    """The half width of the ratio's 95 % interval, as a share of it.

    By its value in ten stretches of the time in which both ran: what slows the machine slows both.
    """
    together_s = min(planted[-1][0], cured[-1][0])
    ratios = []
    for at in range(STRETCHES):
        begin, end = at * together_s / STRETCHES, (at + 1) * together_s / STRETCHES
        within = [[step for step in steps if begin <= step[0] < end] for steps in (planted, cured)]
        if all(within):
            ratios.append(_mean_ms(within[0]) / _mean_ms(within[1]))
    if len(ratios) < STRETCHES // 2:
        return math.inf
    return 2 * statistics.stdev(ratios) / math.sqrt(len(ratios)) / statistics.mean(ratios)


def _undisturbed(folder: Path) -> Steps:
    """The steps that no stop fell into, after a tenth of them. Raises RuntimeError where there are few."""
    timeline = read_facts(folder).timeline
    if timeline is None:
        raise RuntimeError(f"no step was recorded in {folder}")
    rows = list(zip(timeline.start_s, timeline.wall_ms, timeline.max_ms, strict=True))
    kept = [(start, mean) for start, mean, most in rows[len(rows) // 10 :] if most < 800 * TURN_S]
    if len(kept) < STRETCHES:
        raise RuntimeError(f"only {len(kept)} steps in {folder} ran undisturbed")
    return kept


def start(label: Label, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Begin to profile a training, in a process group of its own."""
    (folder / "pyproject.toml").write_text(label.pyproject)
    return subprocess.Popen(
        prof(folder, "run", *label.command, *arguments),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def summary_of(label: Label, folder: Path, *arguments: str) -> dict[str, Any]:
    """Profile a training. Raises RuntimeError where it fails."""
    training = start(label, folder, *arguments)
    _, errors = training.communicate()
    if training.returncode:
        raise RuntimeError(f"{training.args} failed: {errors.strip()}")
    summary: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text("utf-8"))
    return summary


def step_ms(summary: dict[str, Any]) -> float:
    """The mean step, with what was compiled: steps that compile are not among those measured."""
    steps = summary["steps"]
    compiled_s = sum(span["total_s"] for span in summary["spans"] if span["name"] == "compile")
    return float(steps["mean_ms"] + 1000 * compiled_s / steps["count"])


def write(gains: list[MeasuredGain], machine: str) -> None:
    """Keep them where `docs/rules` shows them."""
    held = {"machine": machine, "gains": [asdict(gain) for gain in gains]}
    GAINS.write_text(json.dumps(held, indent=1) + "\n", "utf-8")
    subprocess.run([sys.executable, "-m", "profiler.rules.docs", str(DOCS)], check=True, stdout=subprocess.DEVNULL)
