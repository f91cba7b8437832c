"""comm/exposed-collectives, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from device_builder import STEPS, device, kernel, on_device

from profiler.analysis.device_facts import CollectiveFacts, DeviceFacts
from profiler.rules.base import Abstention, Finding
from profiler.rules.catalogue import judge
from profiler.rules.comm.exposed_collectives import FIXES, OTHERWISE, ExposedCollectives


def exchanging(exposed_ms: float, computing_ms: float, kind: str = "all_reduce", **changes: Any) -> DeviceFacts:
    """Steps of 100 ms in which collectives run for 10 ms more than nothing hides."""
    made = device(96.0, kernels=(kernel("ncclDevKernel", "collective", STEPS * (exposed_ms + 10.0)),), **changes)
    kinds = (CollectiveFacts(kind, 4 * STEPS, STEPS * (exposed_ms + 10.0), STEPS * exposed_ms),)
    steps = tuple(replace(it, computing_ms=computing_ms, exposed_collectives_ms=exposed_ms) for it in made.steps)
    return replace(
        made,
        steps=steps,
        collectives=kinds,
        collectives_ms=STEPS * (exposed_ms + 10.0),
        collectives_exposed_ms=STEPS * exposed_ms,
    )


def test_exchange_that_nothing_hides_is_named_with_what_hiding_it_gives():
    said = ExposedCollectives().check(on_device(exchanging(30.0, 60.0)))
    assert isinstance(said, Finding)
    assert "30 ms (30 %)" in said.title
    assert "4 a step" in said.why
    assert said.gain is not None
    assert (said.gain.step_ms_low, said.gain.step_ms_high) == pytest.approx((70.0, 85.0))
    assert judge(on_device(exchanging(30.0, 60.0))).verdict.rule == "comm/exposed-collectives"


def test_no_more_can_hide_than_the_other_kernels_last():
    said = ExposedCollectives().check(on_device(exchanging(70.0, 20.0)))
    assert isinstance(said, Finding)
    assert said.gain is not None
    assert said.gain.step_ms_low == pytest.approx(80.0)


@pytest.mark.parametrize("kind", [*FIXES, "broadcast"])
def test_the_cure_is_that_of_the_kind(kind):
    said = ExposedCollectives().check(on_device(exchanging(30.0, 60.0, kind)))
    assert isinstance(said, Finding)
    assert (said.fix.summary, said.fix.code) == FIXES.get(kind, OTHERWISE)


def test_overlapped_exchange_is_let_be_and_a_thinned_recording_is_not_judged():
    assert ExposedCollectives().check(on_device(exchanging(2.0, 90.0))) is None
    assert isinstance(ExposedCollectives().check(on_device(exchanging(30.0, 60.0, thinned=True))), Abstention)
