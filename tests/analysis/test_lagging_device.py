"""A device that works on after the host has left the last step: made traces whose device steps are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from trace_builder import COLLECTIVES, TraceBuilder, usual_host

from profiler.analysis.facts import Facts
from profiler.analysis.trace.facts import facts_of
from profiler.record.trace.read import read_trace
from profiler.rules.base import Bottleneck
from profiler.rules.catalogue import judge
from profiler.rules.device import PerStep, per_step

HOST_MS, DEVICE_MS = 10.0, 80.0


def lagging(steps: int = 4, host_ms: float = HOST_MS) -> TraceBuilder:
    """Each step launches 50 ms of products, a collective of 20 ms that waits for them, and an update of 10 ms."""
    builder = TraceBuilder()
    for number in range(steps):
        start, begins = number * host_ms, 1 + number * DEVICE_MS
        builder.mark(f"ProfilerStep#{number + 5}", start, host_ms - 0.01)
        usual_host(builder, start, 0.1, host_ms)
        for part in range(10):
            builder.kernel(begins + part * 5, 5, start + 0.5 + part * host_ms / 20)
        builder.kernel(
            begins + 50, 20, start + 0.7 * host_ms, "ncclDevKernel_AllReduce_Sum_f32_RING_LL", stream=COLLECTIVES
        )
        builder.kernel(begins + 70, 10, start + 0.85 * host_ms, "void at::native::vectorized_elementwise_kernel<4>")
    return builder


def read(builder: TraceBuilder, tmp_path: Path) -> tuple[Facts, PerStep]:
    found = facts_of(read_trace(builder.write(tmp_path / "made.json"))).facts
    step = per_step(found)
    assert isinstance(step, PerStep)
    return found, step


def test_work_belongs_to_the_step_that_launched_it(tmp_path: Path) -> None:
    found, step = read(lagging(), tmp_path)
    assert found.steps is not None and found.device is not None
    assert found.steps.mean_ms == pytest.approx(HOST_MS, abs=0.02)
    assert [it.wall_ms for it in found.device.steps] == pytest.approx([81, 80, 80, 80])
    assert [it.busy_ms for it in found.device.steps] == pytest.approx([80] * 4)
    assert [it.exposed_collectives_ms for it in found.device.steps] == pytest.approx([20] * 4)
    assert found.device.steps_busy_share == pytest.approx(320 / 321)
    assert step.step_ms == pytest.approx(80.25)
    assert sum(step.families_ms.values()) == pytest.approx(80)
    assert any("80.2 ms for one" in notice for notice in found.notices)


def test_shares_are_of_the_device_step(tmp_path: Path) -> None:
    found, _ = read(lagging(), tmp_path)
    judged = judge(found)
    assert judged.verdict.bottleneck is Bottleneck.COMMUNICATION
    exposed = next(it for it in judged.findings if it.rule == "comm/exposed-collectives")
    assert exposed.gain is not None
    assert exposed.gain.step_ms_low >= 60


def test_work_from_before_and_after_the_steps_is_none_of_theirs(tmp_path: Path) -> None:
    builder = lagging()
    early, late = 12, 5
    builder.work("ampere_sgemm_128x64_nn", 0.5, 0.5, None)
    builder.work("ampere_sgemm_128x64_nn", 0.2, 0.3, 1)
    for number in range(late):
        builder.kernel(321 + number * early, early, launched=50 + number)
    found, step = read(builder, tmp_path)
    assert found.device is not None
    assert sum(step.families_ms.values()) == pytest.approx(80)
    assert [it.wall_ms for it in found.device.steps] == pytest.approx([80] * 4)
    assert found.device.kernel_sum_ms == pytest.approx(320.8 + late * early)


def test_a_device_that_keeps_up_has_the_steps_of_the_host(tmp_path: Path) -> None:
    found, step = read(lagging(host_ms=DEVICE_MS), tmp_path)
    assert found.device is not None
    assert found.device.pace_ms is None
    assert [it.wall_ms for it in found.device.steps] == pytest.approx([79.99] * 4)
    assert step.step_ms == pytest.approx(79.99, abs=0.02)
    assert not found.notices


def test_waits_of_the_host_count_in_the_steps_of_the_host(tmp_path: Path) -> None:
    builder = lagging()
    builder.call("cudaDeviceSynchronize", 45, 276)
    _, step = read(builder, tmp_path)
    assert step.waited_ms == 0


def test_a_host_of_uneven_steps_makes_no_noise_in_those_of_the_device(tmp_path: Path) -> None:
    """The first steps are launched at once, until the queue is full and the host is held up by it."""
    builder = lagging()
    marks = [event for event in builder.events if event["name"].startswith("ProfilerStep")]
    marks[-1]["dur"] += 130_000
    found, step = read(builder, tmp_path)
    assert found.steps is not None
    assert found.steps.noise_ms > 20
    assert step.step_ms == pytest.approx(80.25)
    assert "comm/exposed-collectives" in {it.rule for it in judge(found).findings}
