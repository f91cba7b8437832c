"""Every labelled training, run as a user runs it: what is planted is named, and its cured twin is silent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from attach import Pair, attach
from attempts import judge
from expected import is_silent_of_the_cured, is_silent_of_the_healthy, names_what_is_planted
from labels import Label, on_gpu, scenarios

from profiler.rules.catalogue import rule_types

PairOf = Callable[[Label], Pair | None]
LABELS = scenarios()
PLANTED = [label for label in LABELS if not label.healthy]
HEALTHY = [label for label in LABELS if label.healthy]
EACH_PLANTED = [
    pytest.param(label, id=label.name, marks=() if label.live else pytest.mark.exhaustive) for label in PLANTED
]


def test_there_are_at_least_twelve_planted_trainings_each_with_a_cured_twin() -> None:
    assert len(PLANTED) >= 12
    assert all(label.cured and label.rule for label in PLANTED)
    assert len(HEALTHY) >= 5
    assert sum(label.live for label in PLANTED) >= 24


def test_a_rule_that_rests_on_a_training_has_one_here() -> None:
    recorded = {path.name.split(".")[0] for path in (Path(__file__).parents[1] / "recorded/on_gpu").glob("*.tar.xz")}
    proven = {rule for label in PLANTED for rule in label.rules} | {"compute/healthy"}
    proven |= {rule for label in on_gpu() if label.name in recorded for rule in label.rules}
    assert {rule.id for rule in rule_types() if rule.evidence == "training"} == proven


def runs(label: Label, *arguments: str) -> Callable[[Path], dict[str, Any]]:
    """How that script is run, for `judge`."""
    return lambda folder: attach(label, folder, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("label", EACH_PLANTED)
def test_what_is_planted_is_the_verdict(label: Label, tmp_path: Path, pair_of: PairOf) -> None:
    pair = pair_of(label)
    judge(runs(label), partial(names_what_is_planted, label), tmp_path, pair and pair.first)


@pytest.mark.slow
@pytest.mark.parametrize("label", EACH_PLANTED)
def test_the_cured_twin_is_silent(label: Label, tmp_path: Path, pair_of: PairOf) -> None:
    pair = pair_of(label)
    judge(runs(label, "--cured"), partial(is_silent_of_the_cured, label), tmp_path, pair and pair.second)


@pytest.mark.slow
@pytest.mark.parametrize("label", HEALTHY, ids=lambda label: label.name)
def test_nothing_is_said_of_a_healthy_training(
    label: Label, tmp_path: Path, beside_another: Callable[[Label], dict[str, Any] | None]
) -> None:
    judge(runs(label), partial(is_silent_of_the_healthy, label), tmp_path, beside_another(label))
