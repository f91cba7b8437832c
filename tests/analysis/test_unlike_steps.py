"""What lies in a marked step and is not its training, and what runs beside it or behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
from trace_builder import ENGINE, THREAD, TraceBuilder, training, usual_host

from profiler.analysis.facts import Facts
from profiler.analysis.trace.facts import facts_of
from profiler.record.trace.read import read_trace
from profiler.rules.base import Bottleneck
from profiler.rules.catalogue import judge
from profiler.rules.device import PerStep, per_step

TAKE = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
STEP_MS = 100.0


def read(builder: TraceBuilder, tmp_path: Path) -> Facts:
    return facts_of(read_trace(builder.write(tmp_path / "made.json"))).facts


def step_of(found: Facts) -> PerStep:
    step = per_step(found)
    assert isinstance(step, PerStep)
    return step


def train(builder: TraceBuilder, start: float) -> None:
    usual_host(builder, start)
    for number in range(20):
        builder.kernel(start + 1.5 + number * 4.8, 4.79, launched=start + 0.3 + number * 0.05)


def evaluate(builder: TraceBuilder, start: float, batches: int = 3) -> None:
    """Batches of 50 ms of which 30 are waited for."""
    for batch in range(batches):
        at = start + 50 * batch
        builder.mark(TAKE, at, 30)
        for number in range(10):
            builder.op("aten::linear", at + 30 + number, 0.9)
        builder.kernel(at + 31, 18, launched=at + 30.5)


def with_evaluations(steps: int, every: int, trained: int = 1) -> TraceBuilder:
    builder, at = TraceBuilder(), 0.0
    for number in range(steps):
        evaluates = number % every == every - 1
        length = STEP_MS + 150 * evaluates
        builder.mark(f"ProfilerStep#{number}", at, length - 0.01)
        train(builder, at)
        if evaluates:
            evaluate(builder, at + STEP_MS)
        at += length
    return builder


def test_an_evaluation_within_a_marked_step_is_none_of_it(tmp_path: Path) -> None:
    found = read(with_evaluations(8, every=4), tmp_path)
    assert found.steps is not None and found.device is not None
    assert found.steps.count == 8 and found.steps.mean_ms == pytest.approx(STEP_MS, abs=0.2)
    assert [step.wall_ms for step in found.device.steps] == pytest.approx([STEP_MS] * 8, abs=0.2)
    assert found.stages["data_wait"].mean_ms == pytest.approx(1, abs=0.01)
    assert found.device.steps_busy_share == pytest.approx(0.96, abs=0.01)
    assert any("2 marked steps also hold an evaluation" in notice for notice in found.notices)
    assert judge(found).verdict.bottleneck is Bottleneck.COMPUTE


def test_what_most_steps_hold_is_the_training_s(tmp_path: Path) -> None:
    found = read(with_evaluations(8, every=1), tmp_path)
    assert found.steps is not None and found.steps.mean_ms == pytest.approx(250, abs=0.2)
    assert not any("evaluation" in notice for notice in found.notices)


def test_marks_of_parts_of_a_batch_are_said_to_be_such(tmp_path: Path) -> None:
    builder = TraceBuilder()
    for number in range(8):
        builder.mark(f"ProfilerStep#{number}", number * STEP_MS, STEP_MS - 0.01)
        builder.backward(number * STEP_MS + 30, 40)
        if number % 4 == 3:
            builder.mark("Optimizer.step#AdamW.step", number * STEP_MS + 80, 10)
    assert any("updated in 2 of the 8 marked steps" in notice for notice in read(builder, tmp_path).notices)


def test_kernels_that_run_side_by_side_do_not_take_more_than_the_step(tmp_path: Path) -> None:
    def side_by_side(builder: TraceBuilder, start: float) -> None:
        train(builder, start)
        for number in range(20):
            builder.kernel(start + 1.5 + number * 4.8, 4.79, launched=start + 0.3 + number * 0.05, stream=8)

    found = read(training(side_by_side), tmp_path)
    step = step_of(found)
    assert found.device is not None and sum(it.ms for it in found.device.families) / 4 == pytest.approx(191.6, abs=0.2)
    assert step.running("gemm") == pytest.approx(95.8, abs=0.2)
    assert all(finding.gain is None or finding.gain.speedup_high < 20 for finding in judge(found).findings)


def test_work_outside_of_the_steps_is_not_shared_out_among_them(tmp_path: Path) -> None:
    builder = training(train)
    for number in range(100):
        builder.kernel(500 + number * 5, 4.9, launched=499)
    assert step_of(read(builder, tmp_path)).running("gemm") == pytest.approx(95.8, abs=0.2)


def queued(builder: TraceBuilder, start: float) -> None:
    """All work of a step is launched at its beginning; between two kernels the device waits for another stream."""
    usual_host(builder, start)
    for number in range(10):
        builder.kernel(start + 2 + number * 9, 5 if number < 9 else 16, launched=start + 0.3 + number * 0.05)


def test_gaps_in_queued_work_are_not_laid_to_a_wait_around_them(tmp_path: Path) -> None:
    def waiting(builder: TraceBuilder, start: float) -> None:
        queued(builder, start)
        builder.op("aten::item", start + 3, 94)
        builder.call("cudaStreamSynchronize", start + 4, 92)

    def loading(builder: TraceBuilder, start: float) -> None:
        queued(builder, start)
        builder.mark(TAKE, start + 3, 94)

    waited, loaded = (read(training(each), tmp_path) for each in (waiting, loading))
    for found in (waited, loaded):
        assert step_of(found).idle_by("unknown") == pytest.approx(38, abs=3)
        assert step_of(found).idle_by("sync", "data_wait") < 4
    assert not any(finding.rule.startswith("sync/") for finding in judge(waited).findings)


def test_a_wait_after_the_last_step_is_none_of_the_steps(tmp_path: Path) -> None:
    builder = training(train)
    builder.call("cudaDeviceSynchronize", 450, 300)
    builder.kernel(500, 200, launched=449)
    found = read(builder, tmp_path)
    assert found.device is not None and found.device.syncs == ()


def test_each_wait_is_told_what_the_device_lost_behind_it(tmp_path: Path) -> None:
    def two_waits(builder: TraceBuilder, start: float) -> None:
        builder.mark("Optimizer.step#AdamW.step", start + 97, 1)
        builder.kernel(start + 2, 30, launched=start + 1.9)
        builder.op("aten::item", start + 3, 29.5)
        builder.call("cudaStreamSynchronize", start + 4, 28.2)
        builder.kernel(start + 52, 40, launched=start + 51.9)  # 20 ms late
        builder.call("cudaDeviceSynchronize", start + 53, 39.2)  # and then the device is at work again soon
        builder.kernel(start + 93, 8, launched=start + 92.5)

    found = read(training(two_waits), tmp_path)
    assert found.device is not None
    lost = {call.operator or call.name: call.lost_ms / 4 for call in found.device.syncs}
    assert lost["aten::item"] == pytest.approx(20, abs=1)
    assert lost["cudaDeviceSynchronize"] == pytest.approx(1, abs=0.5)
    rules = [finding.rule for finding in judge(found).findings]
    assert "sync/item" in rules and "sync/explicit-synchronize" not in rules


def host_step(builder: TraceBuilder, start: float, pause_ms: float = 0.0) -> None:
    """On a CPU: a batch 0-5, a pause, forward of 10 ms, backward of 20, update of 5."""
    builder.mark(TAKE, start, 5)
    at = start + 5 + pause_ms
    for number in range(20):
        builder.op("aten::linear", at + number * 0.5, 0.5)
    for number in range(20):
        builder.op("autograd::engine::evaluate_function: AddmmBackward0", at + 10 + number, 1, thread=ENGINE)
    builder.mark("Optimizer.step#AdamW.step", at + 30, 5)


def means(found: Facts) -> dict[str, float]:
    return {name: round(stage.mean_ms) for name, stage in found.stages.items() if stage.mean_ms > 0.5}


def test_on_a_cpu_python_before_forward_is_not_the_models_arithmetic(tmp_path: Path) -> None:
    found = read(training(lambda builder, start: host_step(builder, start, 55), step_ms=100), tmp_path)
    assert means(found) == {"data_wait": 5, "forward": 10, "backward": 20, "optimizer": 5, "other": 60}
    assert judge(found).verdict.bottleneck is Bottleneck.OTHER


def test_on_a_cpu_the_users_range_says_where_forward_begins(tmp_path: Path) -> None:
    def augmenting(builder: TraceBuilder, start: float) -> None:
        host_step(builder, start, 55)
        builder.op("aten::bernoulli", start + 5, 55)
        builder.mark("forward", start + 60, 10)

    found = read(training(augmenting, step_ms=100), tmp_path)
    assert means(found) == {"data_wait": 5, "forward": 10, "backward": 20, "optimizer": 5, "other": 60}


def test_a_closure_belongs_to_the_optimizer_that_calls_it(tmp_path: Path) -> None:
    def closure(builder: TraceBuilder, start: float) -> None:
        builder.mark(TAKE, start, 5)
        builder.mark("Optimizer.step#LBFGS.step", start + 5, 90)
        for number in range(40):
            builder.op("aten::dot", start + 5 + number, 1)
        for number in range(20):
            builder.op("autograd::engine::evaluate_function: MmBackward0", start + 50 + number, 1, thread=ENGINE)

    found = read(training(closure, step_ms=100), tmp_path)
    assert means(found) == {"data_wait": 5, "backward": 20, "optimizer": 70, "other": 5}


def test_on_a_cpu_hosts_that_exchange_are_communication_as_far_as_nothing_computes(tmp_path: Path) -> None:
    def ddp(builder: TraceBuilder, start: float) -> None:
        host_step(builder, start)
        builder.mark("gloo:all_reduce", start + 25, 45, thread=ENGINE + 1)  # 10 ms beside backward, 5 beside the update

    builder = training(ddp, step_ms=100)
    found = read(builder, tmp_path)
    assert means(found)["communication"] == 30
    assert means(found)["backward"] == 20 and THREAD != ENGINE
    for event in builder.events:  # nine of ten were taken out: what computed beside it may have been among them
        event["args"]["Ev Idx"] = 10 * event["args"].get("Ev Idx", 0)
    assert "communication" not in read(builder, tmp_path).stages
