"""Every labelled training, run as a user runs it: what is planted is named, and its cured twin is silent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from attach import Pair, attach
from attempts import judge
from labels import Label, on_gpu, scenarios

from profiler.rules.catalogue import rule_types

PairOf = Callable[[Label], Pair | None]
LABELS = scenarios()
PLANTED = [label for label in LABELS if not label.healthy]
HEALTHY = [label for label in LABELS if label.healthy]


def told(summary: dict[str, Any]) -> list[str]:
    """Verdict and findings in lines, for a failure's message."""
    stages = {name: f"{stage['share']:.0%}" for name, stage in summary["stages"].items()}
    findings = [f"{f['severity']} {f['rule']}: {f['title']}" for f in summary["findings"]]
    return [summary["verdict"]["summary"], str(stages), *findings]


def names(summary: dict[str, Any]) -> list[str]:
    """The rules that said anything."""
    return [f["rule"] for f in summary["findings"]]


def serious(summary: dict[str, Any]) -> list[str]:
    """The rules that said more than a note."""
    return [f["rule"] for f in summary["findings"] if f["severity"] != "info"]


def test_there_are_at_least_twelve_planted_trainings_each_with_a_cured_twin() -> None:
    assert len(PLANTED) >= 12
    assert all(label.cured and label.rule for label in PLANTED)
    assert len(HEALTHY) >= 5


def test_a_rule_that_rests_on_a_training_has_one_here() -> None:
    recorded = {path.name.split(".")[0] for path in (Path(__file__).parents[1] / "recorded").glob("*.tar.xz")}
    proven = {rule for label in PLANTED for rule in label.rules} | {"compute/healthy"}
    proven |= {rule for label in on_gpu() if label.name in recorded for rule in label.rules}
    assert {rule.id for rule in rule_types() if rule.evidence == "training"} == proven


def runs(label: Label, *arguments: str) -> Callable[[Path], dict[str, Any]]:
    """How that script is run, for `judge`."""
    return lambda folder: attach(label, folder, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("label", PLANTED, ids=lambda label: label.name)
def test_what_is_planted_is_the_verdict(label: Label, tmp_path: Path, pair_of: PairOf) -> None:
    def check(summary: dict[str, Any]) -> None:
        assert summary["verdict"]["bottleneck"] in label.verdicts, told(summary)
        said = names(summary) if label.note else serious(summary)
        assert any(rule.startswith(label.rule) for rule in said), told(summary)
        assert set(label.also) <= set(names(summary)), told(summary)
        if label.exact and label.line:
            finding = next(f for f in summary["findings"] if f["rule"] == label.rule)
            assert (finding["fix"]["file"], finding["fix"]["line"]) == (str(label.path), label.line), told(summary)
        if label.span:
            name, share = label.span
            span = next(span for span in summary["spans"] if span["name"] == name)
            assert span["share_of_run"] >= share, told(summary)

    pair = pair_of(label)
    judge(runs(label), check, tmp_path, pair and pair.first)


@pytest.mark.slow
@pytest.mark.parametrize("label", PLANTED, ids=lambda label: label.name)
def test_the_cured_twin_is_silent(label: Label, tmp_path: Path, pair_of: PairOf) -> None:
    def check(summary: dict[str, Any]) -> None:
        assert summary["verdict"]["bottleneck"] in label.twin, told(summary)
        assert serious(summary) == [], told(summary)
        assert not set(label.rules) & set(names(summary)), told(summary)

    pair = pair_of(label)
    judge(runs(label, "--cured"), check, tmp_path, pair and pair.second)


@pytest.mark.slow
@pytest.mark.parametrize("label", HEALTHY, ids=lambda label: label.name)
def test_nothing_is_said_of_a_healthy_training(
    label: Label, tmp_path: Path, beside_another: Callable[[Label], dict[str, Any] | None]
) -> None:
    def check(summary: dict[str, Any]) -> None:
        assert summary["verdict"]["bottleneck"] in label.verdicts, told(summary)
        assert serious(summary) == [], told(summary)

    judge(runs(label), check, tmp_path, beside_another(label))
