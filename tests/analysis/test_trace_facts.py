"""From traces made by hand to facts: steps and stages by every kind of mark, processes, devices, broken input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_builder import BEGAN_US, ENGINE, PID, STREAM, THREAD, TraceBuilder, training, usual_host

from profiler.analysis.device_facts import COPY_KINDS, FAMILIES, IDLE_CAUSES
from profiler.analysis.facts import Facts
from profiler.analysis.trace import many
from profiler.analysis.trace.facts import facts_of
from profiler.analysis.trace.many import read_traces, trace_files
from profiler.errors import ProfError
from profiler.record.trace.read import read_trace
from profiler.record.vocabulary import STAGE_ORDER
from profiler.rules.catalogue import judge


def facts(builder: TraceBuilder, tmp_path: Path, name: str = "made.json") -> Facts:
    return facts_of(read_trace(builder.write(tmp_path / name))).facts


def loop(
    builder: TraceBuilder, start: float, *, data: bool = True, update: bool = True, engine: int = ENGINE, micro: int = 1
) -> None:
    """One step of 100 ms: batch 0-10, forward 10-40, backward 40-70, update 80-90."""
    if data:
        builder.mark("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", start, 10)
    for part in range(micro):
        at, whole = start + 10 + part * 60 / micro, 60 / micro
        for number in range(10):
            builder.op("aten::linear", at + number * whole / 20, whole / 25)
        builder.backward(at + whole / 2, whole / 2, thread=engine)
    builder.kernel(start + 12, 85, launched=start + 11)
    if update:
        builder.mark("Optimizer.step#SGD.step", start + 80, 10)


def stages(found: Facts) -> dict[str, float]:
    return {name: round(stage.mean_ms, 1) for name, stage in found.stages.items() if stage.mean_ms > 0.05}


def test_marked_steps_are_as_long_as_their_marks(tmp_path: Path) -> None:
    found = facts(training(loop, 5), tmp_path)
    assert found.steps is not None
    assert (found.steps.count, found.steps.measured, found.steps.explicit) == (5, 5, True)
    assert found.steps.mean_ms == pytest.approx(99.99)
    assert stages(found) == {"data_wait": 10, "forward": 30, "backward": pytest.approx(30, abs=0.2),
                             "optimizer": 10, "other": pytest.approx(20, abs=0.2)}  # fmt: skip


def test_time_between_marked_steps_belongs_to_none(tmp_path: Path) -> None:
    builder = TraceBuilder()
    for number in range(4):
        builder.mark(f"ProfilerStep#{number}", number * 150, 100)
        loop(builder, number * 150)
    found = facts(builder, tmp_path)
    assert found.steps is not None and found.device is not None
    assert found.steps.mean_ms == pytest.approx(100)
    assert sum(stages(found).values()) == pytest.approx(100, abs=0.5)
    assert [step.wall_ms for step in found.device.steps] == pytest.approx([100] * 4)
    assert found.device.stages_ms == {"forward": pytest.approx(85)}


def test_without_marks_a_step_begins_with_its_batch(tmp_path: Path) -> None:
    found = facts(training(loop, 5, marked=False), tmp_path)
    assert found.steps is not None
    assert (found.steps.count, found.steps.explicit) == (5, False)
    assert found.steps.median_ms == pytest.approx(100, abs=0.1)
    assert stages(found)["data_wait"] == 10


def test_without_a_loader_a_step_begins_after_the_update(tmp_path: Path) -> None:
    found = facts(training(lambda builder, at: loop(builder, at, data=False), 5, marked=False), tmp_path)
    assert found.steps is not None
    assert found.steps.count == 5
    assert found.steps.median_ms == pytest.approx(100, abs=10)
    assert "data_wait" not in found.stages


def test_without_any_mark_backward_passes_tell_the_steps(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        loop(builder, start, data=False, update=False)

    found = facts(training(step, 5, marked=False), tmp_path)
    assert found.steps is not None
    assert found.steps.count >= 4
    assert "optimizer" not in found.stages


def test_on_a_cpu_backward_runs_on_the_training_thread(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        loop(builder, start, engine=THREAD)

    builder = training(step, 4)
    builder.events = [event for event in builder.events if event["cat"] in ("cpu_op", "user_annotation")]
    found = facts(builder, tmp_path)
    assert found.device is None and found.machine.device == "cpu"
    assert stages(found)["forward"] == 30
    assert stages(found)["backward"] == pytest.approx(30, abs=0.2)


def test_each_micro_batch_has_its_forward_and_backward(tmp_path: Path) -> None:
    found = facts(training(lambda builder, at: loop(builder, at, micro=3), 4), tmp_path)
    assert found.steps is not None
    assert found.steps.micro_batches == 3
    assert stages(found)["forward"] == pytest.approx(30, abs=0.2)


def test_start_up_is_left_out_where_it_is_beyond_doubt(tmp_path: Path) -> None:
    builder = TraceBuilder()
    for number in range(5):
        at = 900 * min(number, 1) + 100 * max(number - 1, 0)
        builder.mark(f"ProfilerStep#{number}", at, 899 if number == 0 else 99)
        loop(builder, at)
    found = facts(builder, tmp_path)
    assert found.steps is not None and found.device is not None
    assert (found.steps.count, found.steps.warmup) == (5, 1)
    assert [step.index for step in found.device.steps] == [1, 2, 3, 4]


def test_a_slower_first_step_is_a_step(tmp_path: Path) -> None:
    builder = TraceBuilder()
    for number in range(4):
        at = 150 * min(number, 1) + 100 * max(number - 1, 0)
        builder.mark(f"ProfilerStep#{number}", at, 149 if number == 0 else 99)
        loop(builder, at)
    found = facts(builder, tmp_path)
    assert found.steps is not None
    assert found.steps.measured == 4


def test_processes_of_one_file_are_not_mixed(tmp_path: Path) -> None:
    training_one = training(loop, 4)
    other = TraceBuilder(pid=9000)
    for number in range(200):
        other.op("aten::mm", number * 2.0, 1.0, thread=9000)
        correlation = other.call("cudaLaunchKernel", number * 2.0, 0.1, thread=9000)
        other.work("stranger", number * 2.0 + 0.5, 1.0, correlation + 100_000, device=3)
        other.events[-2]["args"]["correlation"] += 100_000
    training_one.events += other.events
    found = facts(training_one, tmp_path)
    assert found.device is not None and found.steps is not None
    assert found.steps.count == 4
    assert {kernel.name for kernel in found.device.kernels} == {"ampere_sgemm_128x64_nn"}
    assert any("1 further process" in notice and str(PID) in notice for notice in found.notices)


@pytest.mark.parametrize("later_ms", [0.0, 3.0])
def test_ranks_of_one_file_that_number_their_calls_alike_are_not_mixed(tmp_path: Path, later_ms: float) -> None:
    ranks = [TraceBuilder(pid=pid) for pid in (PID, 9000)]
    for device, rank in enumerate(ranks):
        for number in range(4):
            start = number * 100 + device * later_ms
            rank.mark(f"ProfilerStep#{number}", start, 99)
            usual_host(rank, start)
            for part in range(10):
                called = start + 5 + part * 6
                rank.work(f"gemm_{device}", called + 0.1, 5, rank.call("cudaLaunchKernel", called, 0.01), device=device)
    ranks[0].events += ranks[1].events
    found = facts(ranks[0], tmp_path)
    assert found.device is not None
    assert found.device.kernel_count == 40
    assert len({kernel.name for kernel in found.device.kernels}) == 1
    assert found.device.launch_delay_us == pytest.approx(90)
    assert not any("devices worked" in notice for notice in found.notices)
    if later_ms:
        pid = "9000" if found.device.kernels[0].name == "gemm_1" else str(PID)
        assert any(f"process {pid}" in notice for notice in found.notices)


def test_several_devices_of_one_process_are_united_and_said_to_be(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        for device in (0, 1):
            number = builder.call("cudaLaunchKernel", start + 5, 0.01)
            builder.work("gemm", start + 10 + device * 40, 40, number, device=device)

    found = facts(training(step), tmp_path)
    assert found.device is not None
    assert found.device.busy_ms == pytest.approx(4 * 80)
    assert any("2 devices" in notice for notice in found.notices)


def test_events_without_correlation_are_linked_by_their_operator(tmp_path: Path) -> None:
    builder = training(usual_host, 3)
    for number, event in enumerate([event for event in builder.events if event["name"] == "aten::linear"]):
        at = (event["ts"] - BEGAN_US) / 1000
        builder.work(f"kernel{number % 2}", at + 1, 1, None, **{"External id": event["args"]["External id"]})
    found = facts(builder, tmp_path)
    assert found.device is not None
    assert found.device.stages_ms == {"forward": pytest.approx(10)}
    assert found.device.kernels[0].operator == "aten::linear"


def test_a_recording_without_runtime_calls_is_linked_by_operators_too(tmp_path: Path) -> None:
    builder = training(usual_host, 3)
    for event in [event for event in builder.events if event["name"] == "aten::linear"]:
        at = (event["ts"] - BEGAN_US) / 1000
        builder.work("kernel", at + 2, 0.5, 7, **{"External id": event["args"]["External id"]})
    found = facts(builder, tmp_path)
    assert found.device is not None and found.device.idle_ms is not None
    assert found.device.idle_ms["host"] > 200
    assert found.device.idle_ms["unknown"] < 70  # after the last kernel


def test_kernels_are_named_with_their_stage_and_operator(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        loop(builder, start)
        builder.kernel(start + 98, 1.5, launched=start + 41, name="sm80_xmma_gemm_tensor16x8x16", thread=ENGINE)

    found = facts(training(step), tmp_path)
    assert found.device is not None
    first, second = found.device.kernels
    assert (first.stage, first.family, first.tensor_cores, first.count) == ("forward", "gemm", False, 4)
    assert (second.stage, second.tensor_cores) == ("backward", True)
    assert second.operator == "autograd::engine::evaluate_function: MmBackward0"
    assert found.device.tensor_core_share == pytest.approx(1.5 / 86.5)


@pytest.mark.parametrize(
    ("launch", "kernel", "share"),
    [
        ("cudaLaunchKernel", "ampere_sgemm_128x64_nn", 0.0),
        ("cudaLaunchKernel", "triton_tem_fused_mm_0", None),
        ("hipLaunchKernel", "Cijk_Alik_Bljk_SB_MT64x16x32_MI16x16x1_SN", 1.0),
        ("hipLaunchKernel", "gemm_kernel", None),
        ("urEnqueueKernelLaunch", "gemm_kernel", None),
    ],
)
def test_a_share_of_tensor_cores_that_names_do_not_tell_is_not_zero(
    launch: str, kernel: str, share: float | None, tmp_path: Path
) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        builder.work(kernel, start + 5, 50, builder.call(launch, start + 4, 0.01))

    found = facts(training(step), tmp_path)
    assert found.device is not None and found.device.tensor_core_share == share


def test_names_of_intels_runtime(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        number = builder.call("zeCommandListAppendLaunchKernel", start + 5, 0.01)
        builder.events[-1]["cat"] = "xpu_runtime"
        builder.work("gemm_kernel", start + 6, 90, number)
        number = builder.call("zeCommandListAppendMemoryCopy", start + 4, 0.01)
        builder.events[-1]["cat"] = "xpu_runtime"
        builder.work("Memcpy M2D", start + 5, 0.9, number, cat="gpu_memcpy", bytes=4096)

    found = facts(training(step), tmp_path)
    assert found.device is not None
    assert found.machine.device == "Intel GPU"
    assert found.device.copies["h2d"].bytes == 4 * 4096


def test_memory_readings_become_a_timeline(tmp_path: Path) -> None:
    builder = training(loop, 3)
    for number in range(2000):
        args = {"Device Type": 1, "Device Id": 0, "Total Allocated": number % 100 << 20, "Total Reserved": 1 << 30}
        builder.events.append(
            {"ph": "i", "name": "[memory]", "ts": BEGAN_US + number * 100, "pid": PID, "tid": THREAD, "args": args}
        )
    found = facts(builder, tmp_path)
    assert found.device is not None
    assert found.memory.peak_device_bytes == 99 << 20
    assert 0 < len(found.device.memory_timeline) <= 600


def test_ranks_in_several_files_are_told_apart(tmp_path: Path) -> None:
    slow = training(loop, 4, rank=0, world_size=2)
    quick = training(loop, 4, 130.0, rank=1, world_size=2)
    slow.write(tmp_path / "b.json.gz")
    quick.write(tmp_path / "a.json")
    (tmp_path / "broken.json").write_text("nothing")
    (tmp_path / "notes.txt").write_text("no trace")
    found = read_traces(trace_files([tmp_path]))
    assert found.steps is not None and found.run.ranks == 2
    assert found.steps.mean_ms == pytest.approx(99.99)
    assert found.trace is not None and len(found.trace.files) == 3
    assert any("rank 0, beside rank 1" in notice and "by 30 %" in notice for notice in found.notices)
    assert any("broken.json" in notice for notice in found.notices)


def test_many_files_are_reduced_by_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(3):
        training(loop, 3, rank=rank, world_size=3).write(tmp_path / f"{rank}.json.gz")
    files = trace_files([tmp_path])
    alone = read_traces(files)
    monkeypatch.setattr(many, "SPREAD_BYTES", 0)
    assert read_traces(files) == alone


def rank_step(data_ms: float, computing_ms: float, wait_ms: float) -> Any:
    """A step of 100 ms: starved in the wait for data, then computing, then waiting in a collective."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start, data_ms)
        at = start + data_ms + 1
        for number in range(10):
            builder.kernel(at + number * computing_ms / 10, computing_ms / 10, launched=at - 0.5 + number * 0.02)
        builder.kernel(
            at + computing_ms, wait_ms, launched=at, name="ncclDevKernel_AllReduce_Sum_f32_RING_LL", stream=40
        )

    return step


def job(tmp_path: Path, *steps: Any) -> Facts:
    for rank, step in enumerate(steps):
        training(step, 4, rank=rank, world_size=len(steps)).write(tmp_path / f"{rank}.json.gz")
    return read_traces(trace_files([tmp_path]))


def test_the_rank_that_computes_longer_is_the_straggler(tmp_path: Path) -> None:
    found = job(tmp_path, rank_step(1, 60, 36), rank_step(1, 90, 6), rank_step(1, 60, 36))
    assert found.trace is not None and found.trace.late is not None
    assert (found.trace.late.rank, found.trace.late.cause) == (1, "computing")
    assert found.trace.late.late_ms == pytest.approx(30, abs=0.5)
    judged = judge(found)
    verdict = judged.verdict
    assert (verdict.bottleneck.value, verdict.rule) == ("straggler", "straggler/late-in-traces")
    assert "rank 1" in verdict.summary and "computes longer" in verdict.summary
    [late] = [finding for finding in judged.findings if finding.rule == verdict.rule]
    assert late.gain is not None and late.gain.step_ms_low == pytest.approx(70, abs=1)
    assert "batches of the same size" in late.fix.summary and "1.json.gz" in late.fix.code


def test_the_rank_that_waits_for_its_batches_is_the_straggler(tmp_path: Path) -> None:
    found = job(tmp_path, rank_step(1, 60, 36), rank_step(31, 60, 6))
    assert found.trace is not None and found.trace.late is not None
    assert (found.trace.late.rank, found.trace.late.cause) == (1, "idle_data_wait")
    assert any("storage" in finding.fix.summary for finding in judge(found).findings if "late-in" in finding.rule)


def test_ranks_that_wait_alike_hold_no_straggler(tmp_path: Path) -> None:
    found = job(tmp_path, rank_step(1, 60, 36), rank_step(1, 62, 34))
    assert found.trace is not None and found.trace.late is None
    assert not any(finding.bottleneck.value == "straggler" for finding in judge(found).findings)
    assert len(found.trace.ranks) == 2
    assert judge(found).verdict.bottleneck.value == "communication"


def test_ranks_whose_steps_do_not_end_together_are_not_compared(tmp_path: Path) -> None:
    training(rank_step(1, 60, 36), 4, rank=0, world_size=2).write(tmp_path / "0.json.gz")
    training(rank_step(1, 90, 6), 4, 140.0, rank=1, world_size=2).write(tmp_path / "1.json.gz")
    found = read_traces(trace_files([tmp_path]))
    assert found.trace is not None and found.trace.late is None
    assert not any(finding.bottleneck.value == "straggler" for finding in judge(found).findings)


def test_files_that_all_fail_say_why(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("nothing")
    with pytest.raises(ProfError, match="no JSON"):
        read_traces(trace_files([tmp_path]))
    with pytest.raises(ProfError, match="does not exist"):
        trace_files([tmp_path / "gone.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProfError, match="holds no trace"):
        trace_files([tmp_path / "empty"])


NAMES = st.sampled_from(
    ["ProfilerStep#3", "ProfilerStep#x", "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", "aten::mm",
     "Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad", "autograd::engine::evaluate_function: MmBackward0",
     "MmBackward0", "cudaLaunchKernel", "cudaStreamSynchronize", "cudaMemcpyAsync", "Memcpy HtoD (Pageable -> Device)",
     "Memcpy DtoH (Device -> Pinned)", "ncclKernel_AllReduce", "nccl:all_reduce", "gloo:all_reduce", "", "[memory]",
     "train.py(3): main", "train.py(9): <listcomp>", "json/encoder.py(4): encode",
     "<built-in method item of Tensor object at 0x7f>", "aten::convolution", "aten::add_"]
)  # fmt: skip
CATEGORIES = st.sampled_from(
    ["cpu_op", "user_annotation", "cuda_runtime", "kernel", "gpu_memcpy", "gpu_memset", "Operator", "Kernel", "Trace",
     "python_function", "gpu_user_annotation", "overhead", None, "ac2g"]
)  # fmt: skip
ODD = st.one_of(
    st.none(), st.integers(-5, 40), st.floats(allow_nan=False), st.text(max_size=4), st.integers(-(2**70), 2**70),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
GIVEN = st.sampled_from(
    [[[4, 4], [4, 4]], [[8, 3, 9, 9], [4, 3, 3, 3], [], [], [], [], [], [], []], ["float", "float"],
     ["", "[1, 1]", "True"], [[0], []], [[1 << 60] * 30, [1 << 60] * 30], [[-3, 1 << 80]], [["a"]],
     "train.py(4): main;torch/x.py(3): f", ";;(", "a.py(99999999999): x"]
)  # fmt: skip
EVENTS = st.fixed_dictionaries(
    {
        "ph": st.sampled_from(["X", "X", "X", "X", "X", "i", "M", "s", "f", "", "B"]),
        "cat": CATEGORIES,
        "name": NAMES,
        "pid": st.one_of(st.sampled_from([0, 1, 9, 9, 9]), ODD),
        "tid": st.one_of(st.sampled_from([7, 9, 9, 10, "stream 7"]), ODD),
        "ts": st.one_of(st.integers(0, 60), st.floats(0, 60), ODD),
        "dur": st.one_of(st.integers(0, 40), st.floats(0, 40), ODD),
        "args": st.one_of(
            st.none(),
            st.dictionaries(
                st.sampled_from(
                    ["correlation", "External id", "Ev Idx", "stream", "device", "bytes", "Collective name",
                     "Total Allocated", "Device Type", "In msg nelems", "dtype", "Python id", "Python parent id",
                     "Call stack", "Input Dims", "Input dims", "Input type", "Concrete Inputs"]
                ),
                st.one_of(st.integers(-2, 12), ODD, GIVEN),
            ),
        ),
    }
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, min_size=1, max_size=40))
def test_whatever_a_trace_holds_it_is_judged_or_refused_in_a_sentence(
    tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    path = tmp_path / "made.json"
    path.write_text(json.dumps({"traceEvents": events}))
    try:
        found = facts_of(read_trace(path)).facts
    except ProfError as error:
        assert len(str(error).splitlines()) == 1
        return
    judgement = judge(found)
    assert judgement.failures == ()
    if found.steps is not None and found.stages:
        total = sum(stage.mean_ms for stage in found.stages.values())
        assert total == pytest.approx(found.steps.mean_ms, rel=1e-6, abs=1e-6)
    device = found.device
    if device is not None:
        assert 0 <= device.busy_ms <= device.span_ms * (1 + 1e-9)
        assert device.collectives_exposed_ms <= device.collectives_ms <= device.kernel_ms + 1e-9
        if device.idle_ms is not None:
            assert set(device.idle_ms) == set(IDLE_CAUSES)
            assert sum(device.idle_ms.values()) == pytest.approx(device.span_ms - device.busy_ms, abs=1e-6)
        assert set(device.copies) <= set(COPY_KINDS)
        assert {family.name for family in device.families} <= set(FAMILIES)
        assert set(device.stages_ms) <= set(STAGE_ORDER)
        assert all(step.busy_ms <= step.wall_ms + 1e-9 for step in device.steps)


def test_the_builders_streams_are_where_the_device_works() -> None:
    builder = TraceBuilder()
    builder.kernel(1, 1, launched=0.5)
    assert builder.events[-1]["tid"] == STREAM
