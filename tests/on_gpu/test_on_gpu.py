"""Trainings on a GPU, run as a user runs them; skipped where there is none (`tests/recorded` has what one recorded)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scenarios"))
from attach import attach
from labels import on_gpu

LABELS = on_gpu()
PLANTED = [label for label in LABELS if not label.healthy]
HEALTHY = [label for label in LABELS if label.healthy]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch could use"),
]


@pytest.mark.parametrize("label", PLANTED, ids=lambda label: label.name)
def test_what_is_planted_on_a_gpu_is_the_verdict(label, tmp_path):
    summary = attach(label, tmp_path)
    found = {it["rule"]: it for it in summary["findings"] if label.note or it["severity"] != "info"}
    assert summary["verdict"]["bottleneck"] in label.verdicts, summary["verdict"]
    assert label.rule in found, list(found)
    if label.line:
        assert found[label.rule]["fix"]["line"] == label.line


@pytest.mark.parametrize("label", PLANTED, ids=lambda label: label.name)
def test_of_the_cured_twin_on_a_gpu_the_rule_says_nothing(label, tmp_path):
    summary = attach(label, tmp_path, "--cured")
    assert label.rule not in [it["rule"] for it in summary["findings"]]


@pytest.mark.parametrize("label", HEALTHY, ids=lambda label: label.name)
def test_nothing_is_said_of_a_healthy_training_on_a_gpu(label, tmp_path):
    summary = attach(label, tmp_path)
    assert summary["verdict"]["bottleneck"] in label.verdicts, summary["verdict"]
    assert [it["rule"] for it in summary["findings"] if it["severity"] != "info"] == []
