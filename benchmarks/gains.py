"""What rules promise beside what their cure gives: each planted training and its cured twin, run in turn.

A step's time is its mean, with the compiler's time spread over all steps. The promise is that of the run whose step is
the median of its kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.commands import prof
from profiler.rules.gains import GAINS, MeasuredGain

SCENARIOS = Path(__file__).parents[1] / "tests" / "scenarios"
DOCS = Path(__file__).parents[1] / "docs" / "rules"
ROUNDS = 3

sys.path.insert(0, str(SCENARIOS))
from labels import Label, scenarios  # noqa: E402


def planted() -> list[Label]:
    """The trainings that prove a rule of their own."""
    return [label for label in scenarios() if label.rules and label.cured]


def run(rounds: int = ROUNDS, names: tuple[str, ...] = ()) -> Iterator[MeasuredGain]:
    """Each rule that promises something in its training; of all trainings, or of those named."""
    for label in planted():
        if not names or label.name in names:
            yield from compare(label, rounds)


def compare(label: Label, rounds: int = ROUNDS) -> list[MeasuredGain]:
    """Planted and cured in turn, so many times."""
    pairs = [(summary_of(label), summary_of(label, "--cured")) for _ in range(rounds)]
    measured = median(step_ms(slow) / step_ms(cured) for slow, cured in pairs)
    middle = sorted(pairs, key=lambda pair: step_ms(pair[0]))[len(pairs) // 2]
    found = []
    for rule in label.rules:
        gain = next((it["gain"] for it in middle[0]["findings"] if it["rule"] == rule and it["gain"]), None)
        if gain is not None:
            found.append(
                MeasuredGain(
                    rule,
                    label.name,
                    round(gain["speedup_low"], 3),
                    round(gain["speedup_high"], 3),
                    round(measured, 3),
                    round(median(step_ms(slow) for slow, _ in pairs), 3),
                    round(median(step_ms(cured) for _, cured in pairs), 3),
                )
            )
    return found


def summary_of(label: Label, *arguments: str) -> dict[str, Any]:
    """Profile a training. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables: dict[str, list[str]] = {}
        for rule, threshold, value in label.settings:
            tables.setdefault(rule, []).append(f"{threshold} = {value}")
        lines = [line for rule, held in tables.items() for line in (f'[tool.prof.rules."{rule}"]', *held)]
        (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")
        command = prof(folder, "run", str(label.path), *arguments)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        summary: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text("utf-8"))
        return summary


def step_ms(summary: dict[str, Any]) -> float:
    """The mean step, with what was compiled: steps that compile are not among those measured."""
    steps = summary["steps"]
    compiled_s = sum(span["total_s"] for span in summary["spans"] if span["name"] == "compile")
    return float(steps["mean_ms"] + 1000 * compiled_s / steps["count"])


def write(gains: list[MeasuredGain], machine: str) -> None:
    """Keep them where `docs/rules` shows them."""
    held = {"machine": f"{machine}; {ROUNDS} runs of each in turn", "gains": [asdict(gain) for gain in gains]}
    GAINS.write_text(json.dumps(held, indent=1) + "\n", "utf-8")
    subprocess.run([sys.executable, "-m", "profiler.rules.docs", str(DOCS)], check=True, stdout=subprocess.DEVNULL)
