"""Trainings of `tests/on_gpu` as an H200 ran them, judged from what they recorded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scenarios"))
from labels import Label, read_label
from measure import gains
from packing import ON_GPU, recordings, scripts, unpack

from profiler.analysis.build import read_facts
from profiler.rules.base import WIDEST_RANGE, Severity
from profiler.rules.catalogue import judge
from profiler.rules.gains import MeasuredGain, gains_on_gpu
from profiler.rules.verdict import Judgement

NAMES = recordings(ON_GPU)
PLANTED = [name for name in NAMES if not name.startswith("healthy") and not name.endswith("-cured")]
CURED = [name for name in NAMES if name.endswith("-cured")]
HEALTHY = [name for name in NAMES if name.startswith("healthy")]
WAITED = {"run/startup-dominates"}  # they waited for their turn
OFF_BY = 0.1  # two runs, one after the other, are no closer than that


def judged(name: str, folder: Path) -> tuple[Label, Judgement]:
    """What the training's header says, and what the catalogue says of its recording."""
    label = read_label(scripts(ON_GPU) / f"{name.removesuffix('-cured')}.py")
    return label, judge(read_facts(unpack(ON_GPU, name, folder)))


def serious(judgement: Judgement) -> list[str]:
    """The rules that said more than a note."""
    said = [it.rule for it in judgement.findings if it.severity is not Severity.INFO]
    return [rule for rule in said if rule not in WAITED]


def test_there_are_recordings_of_either_kind() -> None:
    assert len(PLANTED) >= 20
    assert len(HEALTHY) >= 2
    assert len(CURED) >= 3


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_the_verdict(name: str, tmp_path: Path) -> None:
    label, judgement = judged(name, tmp_path)
    said = [it.rule for it in judgement.findings] if label.note else serious(judgement)
    assert judgement.verdict.bottleneck.value in label.verdicts, judgement.verdict
    assert label.rule in said, said
    finding = next(it for it in judgement.findings if it.rule == label.rule)
    if label.line:
        assert (finding.fix.file, finding.fix.line) == (str(label.path), label.line)


def test_the_table_of_promises_is_what_the_recordings_give() -> None:
    assert list(gains()) == list(gains_on_gpu())


@pytest.mark.parametrize("gain", gains_on_gpu(), ids=lambda gain: gain.scenario)
def test_what_is_promised_is_what_the_cure_gave(gain: MeasuredGain) -> None:
    assert gain.promised_low * (1 - OFF_BY) <= gain.measured <= gain.promised_high * (1 + OFF_BY)
    assert gain.promised_high / gain.promised_low <= WIDEST_RANGE + 0.001


def test_twelve_promises_were_kept_to_the_letter() -> None:
    assert sum(gain.holds for gain in gains_on_gpu()) >= 12


@pytest.mark.parametrize("name", CURED)
def test_of_the_cured_twin_the_rule_says_nothing(name: str, tmp_path: Path) -> None:
    label = read_label(scripts(ON_GPU) / f"{name.removesuffix('-cured')}.py")
    facts = read_facts(unpack(ON_GPU, name, tmp_path))
    if facts.device is None:
        pytest.skip("the run ended before its deep window opened")
    judgement = judge(facts)
    assert label.rule not in [it.rule for it in judgement.findings]
    assert judgement.verdict.bottleneck.value in label.twin


@pytest.mark.parametrize("name", HEALTHY)
def test_of_a_healthy_training_nothing_is_said(name: str, tmp_path: Path) -> None:
    label, judgement = judged(name, tmp_path)
    assert judgement.verdict.bottleneck.value in label.verdicts
    assert serious(judgement) == []
