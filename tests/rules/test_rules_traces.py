"""What the rules say of real recorded traces; skipped where the traces are not at hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
from recorded_traces import trace_facts

from profiler.rules.base import Finding, Severity
from profiler.rules.catalogue import judge

SYNC = {"sync/item", "sync/copy-to-host", "sync/data-dependent-shape", "sync/explicit-synchronize"}


def said(name: str) -> dict[str, Finding]:
    judgement = judge(trace_facts(name))
    assert judgement.failures == ()
    return {finding.rule: finding for finding in judgement.findings}


@pytest.mark.parametrize("name", ["resnet50_num_workers_0", "resnet50_num_workers_4"])
def test_pinning_is_advice_where_pageable_memory_was_copied(name: str) -> None:
    found = said(name)
    pageable = found["transfer/pageable-memory"]
    assert pageable.severity is Severity.INFO
    assert pageable.evidence["bytes_per_step"] == pytest.approx(115_607_040 / 6)
    assert "transfer/made-on-cpu" not in found


def test_a_copy_that_holds_the_host_for_94_ms_is_worth_the_20_that_it_takes() -> None:
    pageable = said("resnet50_num_workers_4")["transfer/pageable-memory"]
    assert pageable.evidence["copies_ms"] == pytest.approx(19.72 / 6, rel=0.01)
    assert pageable.recoverable_ms < 19.72 / 6


@pytest.mark.parametrize("name", ["a100_6steps_nccl", "resnet50_num_workers_4", "v100_ns_resolution"])
def test_waiting_while_the_device_works_is_no_synchronization_problem(name: str) -> None:
    """75 of 76 blocked ms, 90 of 95 and 88 of 89 pass while the device works."""
    assert not SYNC & said(name).keys()


def test_a_device_that_is_idle_for_three_quarters_is_bound_by_launches() -> None:
    found = said("a100_3steps_nccl")["host/launch-bound"]
    assert found.severity is Severity.CRITICAL
    assert found.evidence["starved_ms"] == pytest.approx(507.1 / 3, rel=0.02)
    assert found.evidence["kernels_per_step"] == pytest.approx(2700 / 3)


@pytest.mark.parametrize("name", ["resnet50_num_workers_0", "resnet50_num_workers_4", "v100_ns_resolution"])
def test_no_tensor_cores_on_a_volta_are_a_note(name: str) -> None:
    assert said(name)["compute/mixed-precision"].severity is Severity.INFO


@pytest.mark.parametrize("name", ["a100_6steps_nccl", "a100_3steps_nccl"])
def test_products_in_tf32_are_not_called_full_float32(name: str) -> None:
    assert not {"compute/tf32-off", "compute/mixed-precision"} & said(name).keys()


def test_faster_arithmetic_is_promised_by_what_the_host_waits_for() -> None:
    """The host works for 113 of 128 ms: a faster device can take off what is left, not more."""
    gain = said("resnet50_num_workers_4")["compute/mixed-precision"].gain
    assert gain is not None
    assert gain.step_ms_low == pytest.approx(128.25 - 90.0 / 6, rel=0.01)
    assert said("resnet50_num_workers_0")["compute/mixed-precision"].gain is None  # 12.7 / 6 of 155 ms


@pytest.mark.parametrize("name", ["sampled_rank-0", "sampled_rank-1", "cpu_only", "amd_mi250_rocm"])
def test_nothing_of_the_device_is_blamed_where_too_little_was_recorded(name: str) -> None:
    families = ("sync", "transfer", "compute", "host")
    assert [rule for rule in said(name) if rule.split("/")[0] in families] == []
