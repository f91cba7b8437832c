"""Verdicts over traces: ten that were recorded, and made ones for each way to be wrong about a device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from device_builder import device, on_device
from recorded_traces import trace_facts, trace_path
from trace_builder import BEGAN_US, COLLECTIVES, COPIES, TraceBuilder, training, usual_host

from profiler.analysis.facts import Facts, TraceFacts
from profiler.analysis.trace.facts import facts_of
from profiler.analysis.trace.many import read_traces
from profiler.record.trace.read import read_trace
from profiler.rules.base import Bottleneck as Word
from profiler.rules.base import Finding, Fix, Severity
from profiler.rules.catalogue import judge
from profiler.rules.verdict import Verdict, decide

EXPECTED = {
    "resnet50_num_workers_0": (Word.DATA_PREPROCESSING, Word.DATA_LOADING),
    "resnet50_num_workers_4": (Word.COMPUTE,),
    "resnet50_autograd_api_num_workers_0": (Word.DATA_PREPROCESSING, Word.DATA_LOADING),
    "a100_6steps_nccl": (Word.COMMUNICATION, Word.COMPUTE),
    "a100_3steps_nccl": (Word.HOST_OVERHEAD,),
    "sampled_rank-0": (Word.COMMUNICATION, Word.NONE),
    "sampled_rank-1": (Word.COMMUNICATION, Word.NONE),
    "v100_ns_resolution": (Word.COMPUTE,),
    "amd_mi250_rocm": (Word.NONE, Word.HOST_OVERHEAD, Word.OTHER),
    "cpu_only": (Word.NONE, Word.COMMUNICATION),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_trace_gets_the_verdict_that_its_truth_asks_for(name: str) -> None:
    assert judge(trace_facts(name)).verdict.bottleneck in EXPECTED[name]


def test_two_ranks_with_equal_steps_hold_no_straggler() -> None:
    facts = read_traces([trace_path("sampled_rank-1"), trace_path("sampled_rank-0")])
    assert judge(facts).verdict.bottleneck in (Word.COMMUNICATION, Word.NONE)
    assert any("rank 0, beside rank 1" in notice and "equally long" in notice for notice in facts.notices)


def facts(builder: TraceBuilder, tmp_path: Path, name: str = "made.json") -> Facts:
    return facts_of(read_trace(builder.write(tmp_path / name))).facts


def verdict(builder: TraceBuilder, tmp_path: Path, name: str = "made.json") -> Verdict:
    return judge(facts(builder, tmp_path, name)).verdict


def launched_ahead(builder: TraceBuilder, start: float, busy_ms: float = 97.0, count: int = 20) -> None:
    """Kernels back to back, all launched in the first fifth of the step, as far as they fit."""
    for number in range(count):
        at = start + 1.5 + number * busy_ms / count
        builder.kernel(at, busy_ms / count, launched=start + 0.3 + number * 0.05)


def busy_step(builder: TraceBuilder, start: float) -> None:
    usual_host(builder, start)
    launched_ahead(builder, start)


def test_a_device_that_is_always_busy_is_compute(tmp_path: Path) -> None:
    assert verdict(training(busy_step), tmp_path).bottleneck is Word.COMPUTE


def test_item_that_waits_for_a_busy_device_is_not_a_sync_problem(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        busy_step(builder, start)
        builder.op("aten::item", start + 20, 78)
        builder.call("cudaStreamSynchronize", start + 20.5, 77)

    found = facts(training(step), tmp_path)
    assert found.device is not None
    assert found.device.sync_ms == pytest.approx(4 * 77, rel=0.01)
    assert found.device.sync_starved_ms < 0.01 * found.device.sync_ms
    assert judge(found).verdict.bottleneck is Word.COMPUTE


def test_waits_after_which_the_device_runs_dry_are_a_sync_problem(tmp_path: Path) -> None:
    """Each of five waits lasts until the device is done; the host then needs 8 ms to launch again."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        for number in range(5):
            at = start + 1 + number * 19.5
            builder.kernel(at + 0.02, 11, launched=at)
            builder.op("aten::item", at + 0.1, 11)
            builder.call("cudaStreamSynchronize", at + 0.2, 10.83)

    found = facts(training(step), tmp_path)
    assert found.device is not None and found.device.idle_ms is not None
    assert found.device.idle_ms["sync"] > 5 * found.device.idle_ms["host"]
    assert judge(found).verdict.bottleneck is Word.SYNCHRONIZATION


def test_the_copy_in_which_a_thread_waited_is_not_the_bottleneck(tmp_path: Path) -> None:
    """`aten::to` from pageable memory lasts until the queue is empty: 70 ms on the host, 2 ms on the device."""

    def step(builder: TraceBuilder, start: float) -> None:
        builder.op("aten::to", start + 0.5, 72)
        builder.copy(start + 71, 2, called=start + 1, call_ms=70.5)
        builder.op("aten::linear", start + 73, 5)
        builder.backward(start + 79, 10)
        builder.mark("Optimizer.step#AdamW.step", start + 90, 9)
        for number in range(20):  # the step before left them behind
            builder.kernel(start + 0.5 + number * 3.5, 3.45, launched=max(start - 15, 0) + number * 0.2)
        builder.kernel(start + 73.3, 26.9, launched=start + 73.1)

    found = facts(training(step), tmp_path)
    assert found.stages["host_to_device"].share > 0.6
    assert judge(found).verdict.bottleneck is Word.COMPUTE


def test_a_mislabelled_trace_is_judged_by_its_content(tmp_path: Path) -> None:
    assert verdict(training(busy_step), tmp_path, "slow_dataloader_num_workers_0.json").bottleneck is Word.COMPUTE


def test_time_in_a_collective_is_not_called_a_slow_network(tmp_path: Path) -> None:
    """A rank that comes late makes the others wait in the same kernels."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        launched_ahead(builder, start, 60)
        builder.kernel(
            start + 62, 37, launched=start + 10, name="ncclDevKernel_AllReduce_Sum_f32_RING_LL", stream=COLLECTIVES
        )

    found = verdict(training(step, rank=0, world_size=8), tmp_path)
    assert found.bottleneck is Word.COMMUNICATION
    assert "late" in found.summary and "network" not in found.summary


def test_collectives_behind_computing_cost_nothing(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        busy_step(builder, start)
        builder.kernel(
            start + 20, 60, launched=start + 10, name="ncclDevKernel_AllReduce_Sum_f32_RING_LL", stream=COLLECTIVES
        )

    found = facts(training(step, rank=0, world_size=8), tmp_path)
    assert found.device is not None
    assert found.device.collectives_ms == pytest.approx(240)
    assert found.device.collectives_exposed_ms == pytest.approx(0, abs=0.01)
    assert judge(found).verdict.bottleneck is Word.COMPUTE


def test_small_kernels_that_overlap_on_an_idle_device_are_launch_bound(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        for number in range(90):
            at = start + 2 + number
            builder.kernel(at + 0.010, 0.05, launched=at, name="vectorized_elementwise_kernel")
            builder.kernel(at + 0.012, 0.05, launched=at + 0.006, stream=COPIES)

    assert verdict(training(step), tmp_path).bottleneck is Word.HOST_OVERHEAD


def updating(kernel: str, count: int, stage: str = "Optimizer.step#AdamW.step") -> TraceBuilder:
    """The host spends 80 of 100 ms in the update, and launches its small kernels there."""

    def step(builder: TraceBuilder, start: float) -> None:
        builder.op("aten::linear", start + 0.5, 5)
        builder.backward(start + 6, 10)
        builder.mark(stage, start + 18, 80)
        for number in range(10):
            builder.kernel(start + 0.6 + number * 1.7, 1.69, launched=start + 0.55 + number * 0.2)
        for number in range(count):
            at = start + 18.5 + number * 79 / count
            builder.kernel(at + 0.01, 0.002, launched=at, name=kernel)

    return training(step)


def test_an_optimizer_that_launches_tensor_by_tensor_is_the_bottleneck_and_its_cure_is_foreach(tmp_path: Path) -> None:
    made = judge(facts(updating("vectorized_elementwise_kernel", 400), tmp_path))
    assert made.verdict.bottleneck is Word.OPTIMIZER and made.verdict.rule == "optimizer/many-launches"
    assert "in the optimizer's update" in made.verdict.summary
    found = next(finding for finding in made.findings if finding.rule == "optimizer/many-launches")
    assert found.fix.code.startswith("AdamW(model.parameters(), foreach=True)") and "400 kernels" in found.title
    assert not any(finding.rule == "host/launch-bound" for finding in made.findings)


@pytest.mark.parametrize(
    ("kernel", "count"), [("multi_tensor_apply_kernel", 400), ("vectorized_elementwise_kernel", 40)]
)
def test_an_optimizer_that_updates_many_tensors_at_once_is_not_told_to(kernel: str, count: int, tmp_path: Path) -> None:
    made = judge(facts(updating(kernel, count), tmp_path))
    assert made.verdict.bottleneck is Word.HOST_OVERHEAD
    assert "in the optimizer's update" in made.verdict.summary
    assert not any(finding.rule == "optimizer/many-launches" for finding in made.findings)


def test_host_time_in_the_optimizer_is_not_the_devices(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        builder.mark("enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", start + 0.1, 0.5)
        builder.op("aten::linear", start + 1, 5)
        builder.backward(start + 10, 15)
        builder.mark("Optimizer.step#Adam.step", start + 30, 60)
        launched_ahead(builder, start, 96)
        builder.kernel(start + 97.6, 1.0, launched=start + 31, name="multi_tensor_apply_kernel")

    found = facts(training(step), tmp_path)
    assert found.device is not None
    assert found.stages["optimizer"].share == pytest.approx(0.6, abs=0.01)
    assert found.device.stages_ms["optimizer"] == pytest.approx(1.0)
    assert judge(found).verdict.bottleneck is Word.COMPUTE


def test_a_thinned_trace_gets_no_verdict_on_idle_time(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        for number in range(10):
            builder.kernel(start + 5 + number * 9, 0.5, launched=start + 4.99 + number * 9)

    whole = training(step)
    assert verdict(whole, tmp_path).bottleneck is Word.HOST_OVERHEAD
    thinned = training(step)
    kept = [event for event in thinned.events if event["cat"] != "cpu_op" or event["args"]["Ev Idx"] % 12 == 0]
    for event in kept:
        if "Ev Idx" in event["args"]:
            event["args"]["Ev Idx"] *= 50
    thinned.events = kept
    found = facts(thinned, tmp_path)
    assert found.device is not None and found.device.thinned and found.device.idle_ms is None
    assert judge(found).verdict.bottleneck is Word.NONE
    assert "taken out" in judge(found).verdict.summary


def test_idle_time_with_work_queued_long_before_is_neither_late_host_nor_sync(tmp_path: Path) -> None:
    """Everything is launched in the step's first 3 ms; the device waits on its own between the pieces."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        for number in range(10):
            builder.kernel(start + 4 + number * 9.5, 3, launched=start + 0.3 + number * 0.1)

    found = facts(training(step), tmp_path)
    assert found.device is not None and found.device.idle_ms is not None
    assert found.device.idle_ms["unknown"] > 20 * found.device.idle_ms["sync"]
    assert found.device.idle_ms["unknown"] > 5 * found.device.idle_ms["host"]
    assert judge(found).verdict.bottleneck is Word.NONE


def test_a_device_that_starves_in_the_wait_for_data_is_a_data_problem(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start, data_ms=60)
        for number in range(12):
            builder.kernel(start + 61.5 + number * 3, 2.9, launched=start + 61 + number * 0.2)

    found = verdict(training(step), tmp_path)
    assert found.bottleneck is Word.DATA_LOADING
    assert "workers" in found.summary


def test_a_wait_for_data_behind_a_busy_device_is_no_data_problem(tmp_path: Path) -> None:
    """The host runs ahead and waits 60 ms for its next batch, while the device still has work for them."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start, data_ms=60)
        for number in range(20):
            builder.kernel(start + 1 + number * 4.95, 4.93, launched=max(start - 30, 0) + number * 0.05)

    found = facts(training(step), tmp_path)
    assert found.stages["data_wait"].share > 0.5
    assert judge(found).verdict.bottleneck is Word.COMPUTE


def test_copies_that_nothing_hides_are_host_to_device(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        builder.copy(start + 2, 40, called=start + 1.5, call_ms=40.4)
        for number in range(10):
            builder.kernel(start + 42.2 + number * 5.7, 5.69, launched=start + 42.05 + number * 0.01)

    assert verdict(training(step), tmp_path).bottleneck is Word.HOST_TO_DEVICE


def test_copies_back_to_the_host_are_not_called_copies_to_the_device(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        builder.copy(start + 2, 40, called=start + 1.5, call_ms=0.1, name="Memcpy DtoH (Device -> Pinned)")
        for number in range(10):
            builder.kernel(start + 42.2 + number * 5.7, 5.69, launched=start + 2 + number * 0.01)

    made = judge(facts(training(step), tmp_path))
    assert made.verdict.bottleneck is Word.OTHER
    assert made.verdict.summary.startswith("Copies back to the host: for 40 ms")
    assert not any(finding.bottleneck is Word.HOST_TO_DEVICE for finding in made.findings)


def test_a_graph_of_kernels_is_launched_once(tmp_path: Path) -> None:
    """All kernels of a CUDA graph carry the number of its launch; the gaps between them are not the host's."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        number = builder.call("cudaGraphLaunch", start + 1, 0.05)
        for kernel in range(48):
            builder.work("triton_poi_fused_add_0", start + 1.2 + kernel * 2, 1.8, number)

    found = facts(training(step), tmp_path)
    assert found.device is not None and found.device.idle_ms is not None
    assert found.device.idle_ms["host"] < 0.3 * found.device.idle_ms["unknown"]
    assert judge(found).verdict.bottleneck is Word.COMPUTE


def test_a_single_step_of_loading_code_is_too_little_to_judge(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        builder.call("cudaLaunchKernel", start + 3, 60)
        builder.kernel(start + 70, 5, launched=start + 69.9)

    assert verdict(training(step, steps=1), tmp_path).bottleneck is Word.NONE


def test_a_single_step_is_too_little_to_judge_however_whole_it_is(tmp_path: Path) -> None:
    found = verdict(training(busy_step, steps=1), tmp_path)
    assert found.bottleneck is Word.NONE and "1 step was measured" in found.summary
    assert verdict(training(busy_step, steps=2), tmp_path).bottleneck is Word.COMPUTE


def test_a_second_step_in_which_nothing_ran_makes_no_two(tmp_path: Path) -> None:
    builder = training(busy_step, steps=1)
    builder.mark("ProfilerStep#6", 100, 0.05)
    found = verdict(builder, tmp_path)
    assert found.bottleneck is Word.NONE and "one step alone" in found.summary


def test_without_device_events_the_stages_judge(tmp_path: Path) -> None:
    builder = training(lambda builder, start: usual_host(builder, start, data_ms=70), steps=6)
    found = facts(builder, tmp_path)
    assert found.device is None and "device" in found.not_measured
    assert judge(found).verdict.bottleneck in (Word.DATA_LOADING, Word.DATA_PREPROCESSING)


def late(builder: TraceBuilder, start: float) -> None:
    """The device idle for half of the step, because the loop waits for its batch."""
    usual_host(builder, start, data_ms=50)
    launched_ahead(builder, start + 50, 47)


@pytest.mark.parametrize("number", [0, 3])
def test_a_loss_that_lies_in_one_step_is_none_of_each_step(number: int, tmp_path: Path) -> None:
    """A pipeline that fills, or one checkpoint."""

    def step(builder: TraceBuilder, start: float) -> None:
        (late if start == number * 100 else busy_step)(builder, start)

    found = facts(training(step, steps=6), tmp_path)
    assert judge(found).verdict.bottleneck is Word.COMPUTE
    assert any(f"step {number} is like no other" in notice for notice in found.notices)


def test_an_outlier_does_not_make_the_step_longer_of_which_the_verdict_speaks(tmp_path: Path) -> None:
    builder = training(busy_step, steps=8)
    for event in builder.events:  # after the fourth step 400 ms of nothing, as in a checkpoint
        if event["name"] == "ProfilerStep#8":
            event["dur"] += 400_000
        elif event["ts"] - BEGAN_US >= 400_000:
            event["ts"] += 400_000
    found = verdict(builder, tmp_path)
    assert found.bottleneck is Word.COMPUTE and "of each 100 ms step" in found.summary


def test_a_loss_that_recurs_is_the_trainings(tmp_path: Path) -> None:
    """Four workers deliver together: every fourth batch is waited for."""

    def step(builder: TraceBuilder, start: float) -> None:
        (late if start % 400 == 0 else busy_step)(builder, start)

    found = facts(training(step, steps=8), tmp_path)
    assert judge(found).verdict.bottleneck is Word.DATA_LOADING
    assert not any("like no other" in notice for notice in found.notices)


DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


def without_device(builder: TraceBuilder) -> TraceBuilder:
    builder.events = [event for event in builder.events if event["cat"] not in DEVICE_WORK]
    return builder


def test_an_accelerator_of_which_nothing_was_recorded_is_not_called_compute(tmp_path: Path) -> None:
    """CUPTI failed: the host's launches are there and no kernel."""
    found = facts(without_device(training(busy_step)), tmp_path)
    assert found.device is None and found.trace is not None and found.trace.unrecorded_device
    assert "accelerator" in found.not_measured["device"] and "host_to_device" in found.not_measured
    made = judge(found)
    assert made.verdict.bottleneck is Word.NONE and not made.findings
    assert "ProfilerActivity.CUDA" in made.verdict.summary


@pytest.mark.parametrize("operator", ["nccl:all_reduce", "aten::cudnn_convolution", "aten::_pin_memory"])
def test_operators_that_only_an_accelerator_has_tell_that_one_was_in_use(operator: str, tmp_path: Path) -> None:
    """activities=[CPU]: not even launches were recorded."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        builder.op(operator, start + 5, 0.5)

    assert verdict(training(step, steps=6), tmp_path).bottleneck is Word.NONE


def test_a_training_on_the_cpu_of_a_machine_with_an_accelerator_is_judged_by_its_stages(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        builder.op("aten::mkldnn_convolution", start + 2, 1)
        builder.op("aten::cudnn_is_acceptable", start + 4, 0.01)  # that grid_sample asks on the CPU, too
        builder.call("cudaDeviceSynchronize", start + 99, 0.01)

    builder = training(step, steps=6)
    assert verdict(builder, tmp_path).bottleneck is Word.COMPUTE
    builder.head["deviceProperties"] = [{"id": 0, "name": "NVIDIA H100", "totalGlobalMem": 85 << 30}]
    assert verdict(builder, tmp_path).bottleneck is Word.COMPUTE
    builder.events = [event for event in builder.events if event["name"] != "aten::mkldnn_convolution"]
    assert verdict(builder, tmp_path).bottleneck is Word.NONE


@pytest.mark.parametrize("left", [6, 30])  # kernels, of one step or of three
def test_idle_time_of_a_trace_that_breaks_off_tells_nothing(left: int, tmp_path: Path) -> None:
    """Events of the device come last: what the file lost are kernels."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        for number in range(10):
            builder.kernel(start + 5 + number * 9, 0.5, launched=start + 4.99 + number * 9)

    builder = training(step)
    builder.events.sort(key=lambda event: event["cat"] == "kernel")
    path = builder.write(tmp_path / "made.json")
    assert judge(facts_of(read_trace(path)).facts).verdict.bottleneck is Word.HOST_OVERHEAD
    lines = path.read_bytes().split(b'"cat": "kernel"')
    path.write_bytes(b'"cat": "kernel"'.join(lines[: left + 1]))
    found = facts_of(read_trace(path)).facts
    assert found.device is not None and found.device.kernel_count == left and found.device.idle_ms is None
    assert judge(found).verdict.bottleneck is Word.NONE
    assert "breaks off" in judge(found).verdict.summary
    assert not any("thinned out" in notice for notice in found.notices)


def test_idle_time_tells_nothing_where_many_events_could_not_be_read(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        launched_ahead(builder, start)

    builder = training(step)
    for number, event in enumerate(builder.events):
        if number % 3 == 0 and event["cat"] == "kernel":
            event["dur"] *= -1
    found = facts(builder, tmp_path)
    assert judge(found).verdict.bottleneck is Word.NONE
    assert "could not be read" in judge(found).verdict.summary


def test_a_trace_that_trains_nothing_says_so(tmp_path: Path) -> None:
    builder = TraceBuilder()
    for number in range(30):
        builder.op("aten::mm", number * 2.0, 1.0)
        builder.kernel(number * 2.0 + 0.5, 1.0, launched=number * 2.0 + 0.4)
    found = facts(builder, tmp_path)
    assert found.steps is None
    assert judge(found).verdict.bottleneck is Word.NONE
    assert found.device is not None and found.device.kernel_count == 30


def test_a_run_that_was_timed_on_the_device_outweighs_a_window_of_few_steps() -> None:
    """A window of ten steps shows 12 % lost to late launches; over the whole run batches cost 40 %."""
    live = on_device(device(88.0, {"host": 12.0}))
    word, severity = Word.DATA_PREPROCESSING, Severity.CRITICAL
    waits = Finding("data/too-few-workers", word, severity, "late", "", {}, None, Fix("more"), recoverable_ms=40.0)
    assert decide(live, [waits]).rule == "data/too-few-workers"
    traced = replace(live, trace=TraceFacts(("a.json",), False, 1.0, None, None))
    assert decide(traced, [waits]).bottleneck is Word.COMPUTE
