"""Forward and backward that fill the device's step are arithmetic only where the device sets the pace."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import facts, gpu

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck
from profiler.rules.catalogue import judge
from profiler.rules.evidence import arithmetic_share, host_is_ahead


def with_host(share_of_device: float | None) -> Facts:
    """A healthy training by the device's clock, whose host takes this much of the device's time in each stage."""
    made = facts(machine=gpu(device_times=True))
    host = {
        name: replace(stage, host_ms=None if share_of_device is None else share_of_device * stage.mean_ms)
        for name, stage in made.stages.items()
    }
    return replace(made, stages=host)


def test_a_host_far_ahead_leaves_the_arithmetic_to_the_device() -> None:
    its_facts = with_host(0.3)
    assert host_is_ahead(its_facts)
    assert arithmetic_share(its_facts) == pytest.approx(0.97)
    assert judge(its_facts).verdict.bottleneck is Bottleneck.COMPUTE


@pytest.mark.parametrize("host", [1.0, 0.9, None])
def test_a_host_that_is_no_faster_may_be_what_the_device_waits_for(host: float | None) -> None:
    its_facts = with_host(host)
    assert not host_is_ahead(its_facts)
    assert arithmetic_share(its_facts) == 0
    verdict = judge(its_facts).verdict
    assert verdict.bottleneck is Bottleneck.NONE
    assert "waits for the host" in verdict.summary


def test_on_the_cpu_host_and_device_are_one() -> None:
    assert arithmetic_share(facts()) == pytest.approx(0.97)
