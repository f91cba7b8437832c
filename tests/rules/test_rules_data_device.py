"""data/device-waits, on facts made by hand and on a recorded trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from device_builder import device, on_device
from facts_builder import stages, workers

from profiler.analysis.facts import Facts, TraceFacts
from profiler.rules.base import Abstention, Bottleneck, Finding
from profiler.rules.data.device_waits import DeviceWaits

HOST_MS = {"data_wait": 40.0, "forward": 20.0, "backward": 30.0, "optimizer": 10.0}


def waiting(made_by: str | None, operators: float | None, idle_ms: float = 35.0, **changes: Any) -> Facts:
    """A step of 100 ms in whose wait for data of 40 ms the device is idle for so long."""
    recorded = TraceFacts(("a.json",), False, None, made_by, operators)
    held: dict[str, Any] = {"workers": None, "stages": stages(HOST_MS), "trace": recorded}
    return on_device(device(60.0, {"data_wait": idle_ms, "host": 40.0 - idle_ms}), **(held | changes))


@pytest.mark.parametrize(
    ("made_by", "operators", "word", "fix"),
    [
        ("training thread", 0.44, Bottleneck.DATA_PREPROCESSING, "num_workers=1,"),
        ("training thread", 0.0, Bottleneck.DATA_LOADING, "num_workers=1,"),
        ("workers", None, Bottleneck.DATA_LOADING, "prefetch_factor=4"),
        (None, None, Bottleneck.DATA_LOADING, "num_workers=1,"),
    ],
)
def test_an_idle_device_is_named_with_who_makes_the_batches(made_by, operators, word, fix):
    said = DeviceWaits().check(waiting(made_by, operators))
    assert isinstance(said, Finding)
    assert said.bottleneck is word
    assert fix in said.fix.code
    assert "35" in said.title
    assert said.gain is not None
    assert (said.gain.step_ms_low, said.gain.step_ms_high) == pytest.approx((65.0, 100 - 0.67 * 35))


def test_more_workers_are_named_where_a_batch_takes_longer_than_the_rest_of_the_step():
    slow = stages({"data_wait": 75.0, "forward": 10.0, "backward": 15.0})
    said = DeviceWaits().check(waiting("training thread", 0.4, stages=slow))
    assert isinstance(said, Finding)
    assert "num_workers=4," in said.fix.code


def test_it_is_silent_where_the_device_had_work_and_where_batches_were_measured():
    assert DeviceWaits().check(waiting("workers", None, idle_ms=2.0)) is None
    measured = on_device(device(60.0, {"data_wait": 35.0}), stages=stages(HOST_MS), workers=workers(2, 1.0, 30.0, 2.0))
    assert measured.workers is not None
    assert DeviceWaits().check(measured) is None


def test_it_abstains_on_a_thinned_recording():
    thinned = waiting("training thread", 0.4)
    assert thinned.device is not None
    said = DeviceWaits().check(replace(thinned, device=replace(thinned.device, thinned=True, idle_ms=None)))
    assert isinstance(said, Abstention)
