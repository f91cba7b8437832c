"""Trainings of `tests/scenarios`, judged from what they once recorded: all of them, in seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scenarios"))
from expected import is_silent_of_the_cured, is_silent_of_the_healthy, names_what_is_planted
from labels import Label, scenarios
from packing import SCENARIOS, recordings, unpack

from profiler.analysis.build import read_facts
from profiler.report.summary import summary
from profiler.rules.catalogue import judge
from profiler.rules.config import RulesConfig
from profiler.rules.verdict import Result

LABELS = scenarios()
EACH = [pytest.param(label, id=label.name) for label in LABELS]
EACH_PLANTED = [pytest.param(label, id=label.name) for label in LABELS if not label.healthy]


def judged(label: Label, folder: Path, ending: str = "") -> dict[str, Any]:
    """The summary that today's code makes of a recording."""
    facts = read_facts(unpack(SCENARIOS, label.name + ending, folder))
    return summary(Result(facts, judge(facts, RulesConfig(thresholds=label.thresholds))))


def test_each_training_and_each_twin_was_recorded() -> None:
    names = {label.name for label in LABELS} | {f"{label.name}-cured" for label in LABELS if not label.healthy}
    assert set(recordings(SCENARIOS)) == names


@pytest.mark.parametrize("label", EACH)
def test_what_is_planted_is_the_verdict_of_its_recording(label: Label, tmp_path: Path) -> None:
    check = is_silent_of_the_healthy if label.healthy else names_what_is_planted
    check(label, judged(label, tmp_path))


@pytest.mark.parametrize("label", EACH_PLANTED)
def test_of_the_twin_s_recording_nothing_is_said(label: Label, tmp_path: Path) -> None:
    is_silent_of_the_cured(label, judged(label, tmp_path, "-cured"))
