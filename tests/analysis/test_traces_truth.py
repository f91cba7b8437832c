"""The facts of ten recorded traces against their known truth: 1 % or 0.02 ms, counts exactly."""

from __future__ import annotations

import pytest
from recorded_traces import TRUTH, Truth, trace_facts

from profiler.analysis.device_facts import DeviceFacts

NAMES = sorted(TRUTH)
ON_DEVICE = [name for name in NAMES if TRUTH[name].kernels]


def near(value: float, places: float = 0.02) -> object:
    """Within 1 %, or within what the truth's last printed digit allows."""
    return pytest.approx(value, rel=0.01, abs=places)


def device_of(name: str) -> tuple[DeviceFacts, Truth]:
    facts = trace_facts(name)
    assert facts.device is not None
    return facts.device, TRUTH[name]


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_that_the_trace_marks(name: str) -> None:
    facts, (count, mean, median) = trace_facts(name), TRUTH[name].steps
    assert facts.steps is not None
    # statistics leave out start-up, which only the file recorded from its first iteration on holds
    assert facts.steps.measured == count
    assert facts.steps.mean_ms == near(mean)
    assert facts.steps.median_ms == near(median)


@pytest.mark.parametrize("name", NAMES)
def test_the_wait_for_data_is_the_training_threads(name: str) -> None:
    facts, truth = trace_facts(name), TRUTH[name]
    assert facts.steps is not None
    if truth.data_wait is None:
        assert "data_wait" not in facts.stages
        assert "data_wait" in facts.not_measured
    else:
        assert facts.stages["data_wait"].mean_ms * facts.steps.measured == near(truth.data_wait)


@pytest.mark.parametrize("name", [name for name in NAMES if TRUTH[name].stages])
def test_host_stages_are_within_five_percent(name: str) -> None:
    facts, stages = trace_facts(name), TRUTH[name].stages
    assert facts.steps is not None
    for stage, total in stages.items():
        assert facts.stages[stage].mean_ms * facts.steps.measured == pytest.approx(total, rel=0.05, abs=0.1), stage
    assert sum(stage.mean_ms for stage in facts.stages.values()) == pytest.approx(facts.steps.mean_ms)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_busy_time_is_the_union_over_streams(name: str) -> None:
    device, truth = device_of(name)
    assert device.span_ms == near(truth.span)
    assert device.kernel_count == truth.kernels
    assert device.kernel_ms == near(truth.kernel_busy, 0.001)
    assert device.busy_ms == near(truth.device_busy, 0.001)
    assert device.busy_share == near(truth.device_busy / truth.span, 0.0001)
    assert device.steps_busy_share == near(truth.busy_of_steps or 0.0, 0.0006)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_collectives_are_exposed_where_no_other_kernel_runs(name: str) -> None:
    device, (count, busy, exposed) = device_of(name)[0], TRUTH[name].collectives
    assert sum(kind.count for kind in device.collectives) == count
    assert device.collectives_ms == near(busy)
    assert device.collectives_exposed_ms == near(exposed)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_copies_are_told_by_kind_with_their_bytes(name: str) -> None:
    device, truth = device_of(name)
    for kind, (count, ms, size) in truth.copies.items():
        assert device.copies[kind].count == count
        if ms is not None:
            assert device.copies[kind].ms == near(ms, 0.001)
        if size is not None:
            assert device.copies[kind].bytes == size


@pytest.mark.parametrize("name", ON_DEVICE)
def test_waits_of_the_host_are_parted_into_busy_and_starved(name: str) -> None:
    device, (blocked, busy) = device_of(name)[0], TRUTH[name].blocked
    assert device.sync_ms == near(blocked, 0.06)
    assert device.sync_ms - device.sync_starved_ms == near(busy, 0.09)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_idle_time_in_the_steps_is_parted_by_whether_the_work_was_launched(name: str) -> None:
    facts, truth = trace_facts(name), TRUTH[name]
    assert facts.device is not None and facts.steps is not None
    if truth.idle is None:
        assert facts.device.idle_ms is None
        return
    steps = [step for step in facts.device.steps if step.index >= facts.steps.warmup]
    idle = sum(sum(step.idle_ms.values()) for step in steps)
    unknown = sum(step.idle_ms["unknown"] for step in steps)
    # all idle time in the wait for data counts as such, also between pieces of work that were launched before it
    waits = 0.02 * idle if "data_wait" in facts.stages else 0.0
    assert idle == near(truth.idle[0], 0.15)
    assert idle - unknown == pytest.approx(truth.idle[1], rel=0.01, abs=0.15 + waits)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_only_the_device_that_ends_late_has_steps_of_its_own(name: str) -> None:
    pace_ms = device_of(name)[0].pace_ms
    assert pace_ms == (near(96.70, 0.01) if name == "v100_ns_resolution" else None)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_tensor_cores_are_told_by_the_names_of_kernels(name: str) -> None:
    device, truth = device_of(name)
    assert device.tensor_core_share == pytest.approx(truth.tensor_cores, abs=0.006)


@pytest.mark.parametrize(
    ("name", "total"),
    [("resnet50_num_workers_0", 188.5), ("resnet50_autograd_api_num_workers_0", 219.8)],
)
def test_idle_time_in_the_wait_for_data_is_its(name: str, total: float) -> None:
    facts = trace_facts(name)
    assert facts.device is not None and facts.steps is not None
    steps = [step for step in facts.device.steps if step.index >= facts.steps.warmup]
    assert sum(step.idle_ms["data_wait"] for step in steps) == near(total)


def test_time_on_the_device_goes_to_the_stage_that_launched_it() -> None:
    facts = trace_facts("resnet50_num_workers_0")
    assert facts.device is not None
    summed = {stage: 6 * ms for stage, ms in facts.device.stages_ms.items()}
    assert summed["optimizer"] == near(9.2, 0.05)
    assert summed["backward"] == near(392.3, 0.05)
    assert summed["forward"] == near(204.1, 0.05)


def test_work_launched_before_the_recording_counts_as_busy_and_has_no_stage() -> None:
    facts = trace_facts("resnet50_num_workers_0")
    assert facts.device is not None
    of_stages = 6 * sum(facts.device.stages_ms.values())
    assert facts.device.busy_ms - of_stages == pytest.approx(35, abs=1)


@pytest.mark.parametrize(("name", "thinned"), [(name, "sampled" in name or name == "cpu_only") for name in NAMES])
def test_thinned_traces_are_told_and_have_no_idle_time(name: str, thinned: bool) -> None:
    facts = trace_facts(name)
    assert any("thinned" in notice for notice in facts.notices) == thinned
    if facts.device is not None:
        assert facts.device.thinned == thinned
        assert (facts.device.idle_ms is None) == thinned


def test_without_device_events_the_device_is_not_measured() -> None:
    facts = trace_facts("cpu_only")
    assert facts.device is None
    assert "device" in facts.not_measured


def test_what_start_up_copied_and_waited_for_is_no_part_of_the_steps() -> None:
    """cuDNN tried its algorithms in the first iteration, with 357 waits for events."""
    facts = trace_facts("resnet50_autograd_api_num_workers_0")
    assert facts.device is not None and facts.steps is not None
    assert facts.device.copies["h2d_pageable"].count == 16
    assert facts.device.copies_of_steps["h2d_pageable"].count == 2 * facts.steps.measured
    assert facts.device.sync_ms > 400
    assert sum(call.ms for call in facts.device.syncs) < 20
