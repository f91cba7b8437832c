"""What rules promise for the recorded trainings beside what their recorded twins gave.

python tests/recorded/measure.py    write it where `docs/rules` shows it; then `make docs`
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scenarios"))
from labels import read_label
from packing import ON_GPU, recordings, scripts, unpack

from profiler.analysis.build import read_facts
from profiler.analysis.facts import Facts
from profiler.rules.catalogue import judge
from profiler.rules.gains import GAINS_ON_GPU, MeasuredGain

MACHINE = "Each for some seconds on an NVIDIA H200 under torch 2.11"


def recorded(name: str) -> Facts:
    """The facts of a recording."""
    with tempfile.TemporaryDirectory() as folder:
        return read_facts(unpack(ON_GPU, name, Path(folder)))


def gains() -> Iterator[MeasuredGain]:
    """Of each training whose twin was recorded too, and whose rule promises something."""
    for cured in recordings(ON_GPU):
        if not cured.endswith("-cured"):
            continue
        name = cured.removesuffix("-cured")
        label, facts, twin = read_label(scripts(ON_GPU) / f"{name}.py"), recorded(name), recorded(cured)
        gain = next((it.gain for it in judge(facts).findings if it.rule == label.rule), None)
        if gain is None or facts.steps is None or twin.steps is None:
            continue
        steps = (facts.steps.mean_ms, twin.steps.mean_ms)
        ratios = (gain.speedup_low, gain.speedup_high, steps[0] / steps[1])
        yield MeasuredGain(label.rule, name, *(round(it, 3) for it in (*ratios, *steps)))


if __name__ == "__main__":
    held = {"machine": MACHINE, "gains": [asdict(gain) for gain in gains()]}
    GAINS_ON_GPU.write_text(json.dumps(held, indent=1) + "\n", "utf-8")
