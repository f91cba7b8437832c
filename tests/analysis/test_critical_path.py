"""The critical path of a step: timelines whose path is known, and the recorded traces against their truth."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_traces import trace_facts
from trace_builder import COLLECTIVES, COPIES, ENGINE, TraceBuilder, training

from profiler.analysis.device.critical_path import HOST, UNKNOWN, queue_of, walk
from profiler.analysis.facts import Facts
from profiler.analysis.intervals import union
from profiler.analysis.path_facts import CriticalPath
from profiler.analysis.trace.facts import facts_of
from profiler.record.trace.read import read_trace

STEP_MS = 100.0


def facts(builder: TraceBuilder, tmp_path: Path) -> Facts:
    return facts_of(read_trace(builder.write(tmp_path / "made.json"))).facts


def path_of(builder: TraceBuilder, tmp_path: Path) -> CriticalPath:
    path = facts(builder, tmp_path).critical_path
    assert path is not None
    assert sum(path.parts_ms.values()) == pytest.approx(path.step_ms, abs=1e-6)
    return path


def host(builder: TraceBuilder, start: float, data_ms: float = 1.0, backward_at: float = 40.0) -> None:
    """A batch, forward up to the backward pass of 30 ms, and an update of 10 ms."""
    builder.mark("enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", start, data_ms)
    for number in range(10):
        builder.op("aten::linear", start + data_ms + 1 + number * 0.5, 0.4)
    builder.backward(start + backward_at, 30)
    builder.mark("Optimizer.step#SGD.step", start + backward_at + 31, 10)


def test_where_the_host_launches_late_and_waits_for_nothing_it_is_the_whole_path(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start)
        for number in range(19):
            builder.kernel(start + 2.01 + number * 5, 1, launched=start + 2 + number * 5)

    path = path_of(training(step), tmp_path)
    assert sum(path.host_ms.values()) == pytest.approx(path.step_ms - 1, abs=0.02)
    assert path.data_wait_ms == pytest.approx(1, abs=0.01)
    assert path.kernels_ms == {}
    assert path.room_ms == pytest.approx(path.step_ms - 19, abs=0.1)
    assert path.host_ms["backward"] == pytest.approx(30, abs=0.2)


def test_a_host_that_runs_ahead_and_waits_leaves_the_path_to_the_device(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start, backward_at=10)
        for number in range(16):
            builder.kernel(start + 2.01 + number * 5, 5, launched=start + 2 + number * 0.1)
        builder.call("cudaDeviceSynchronize", start + 60, 22.02)  # until 10 µs after the last kernel

    path = path_of(training(step), tmp_path)
    assert path.kernels_ms == {"gemm": pytest.approx(80, abs=0.01)}
    # 2 ms before the first launch, 18 ms after the wait, and what launches take
    assert sum(path.host_ms.values()) + path.data_wait_ms == pytest.approx(path.step_ms - 80, abs=0.02)
    assert path.launch_ms == pytest.approx(0.005, abs=0.002)


def test_a_wait_in_the_middle_puts_only_what_it_waited_for_on_the_path(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start, backward_at=45)
        builder.kernel(start + 5.01, 30, launched=start + 5, name="softmax_warp_forward")
        builder.call("cudaStreamSynchronize", start + 10, 25.02)
        builder.kernel(start + 36.01, 50, launched=start + 36)  # done before the step ends: nobody waits for it

    path = path_of(training(step), tmp_path)
    assert path.kernels_ms == {"normalization": pytest.approx(30, abs=0.01)}
    assert sum(path.host_ms.values()) + path.data_wait_ms == pytest.approx(path.step_ms - 30, abs=0.03)


def test_a_wait_for_what_was_done_long_before_is_the_hosts_own(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start)
        builder.kernel(start + 2.01, 3, launched=start + 2)
        builder.call("cudaStreamSynchronize", start + 85, 5)

    assert path_of(training(step), tmp_path).kernels_ms == {}


def test_a_copy_that_another_stream_waits_for_is_on_the_path(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start, backward_at=12)
        builder.copy(
            start + 3, 37, called=start + 2.9, call_ms=0.01, name="Memcpy HtoD (Pinned -> Device)", stream=COPIES
        )
        builder.kernel(start + 2.6, 0.2, launched=start + 2.5)
        builder.kernel(start + 40.005, 20, launched=start + 4)  # launched early: it waits for the copy's event
        builder.call("cudaStreamSynchronize", start + 55, 5.02)

    path = path_of(training(step), tmp_path)
    assert path.copies_ms == pytest.approx(37, abs=0.01)
    assert path.kernels_ms == {"gemm": pytest.approx(20, abs=0.01)}
    assert path.unknown_ms == pytest.approx(0.005, abs=0.002)


def test_a_collective_is_named_as_such(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start, backward_at=12)
        builder.kernel(start + 20.01, 40, launched=start + 20, name="ncclDevKernel_AllReduce", stream=COLLECTIVES)
        builder.kernel(start + 60.015, 5, launched=start + 21)
        builder.call("cudaStreamSynchronize", start + 50, 15.03)

    path = path_of(training(step), tmp_path)
    assert path.collectives_ms == pytest.approx(40, abs=0.01)
    assert path.kernels_ms == {"gemm": pytest.approx(5, abs=0.01)}


def test_the_wait_for_data_is_on_the_path_of_a_host_that_starves(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start, data_ms=35, backward_at=45)
        builder.kernel(start + 38.01, 20, launched=start + 38)

    path = path_of(training(step), tmp_path)
    assert path.data_wait_ms == pytest.approx(35, abs=0.01)


def test_waits_and_launches_of_the_graphs_thread_count_as_the_hosts(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start, backward_at=20)
        builder.kernel(start + 22.01, 10, launched=start + 22, thread=ENGINE)
        builder.call("cudaStreamSynchronize", start + 23, 9.02, thread=ENGINE)
        builder.call("cudaStreamSynchronize", start + 70, 20, thread=9999)  # somebody else's
        builder.kernel(start + 60, 29.99, launched=start + 59, thread=9999, stream=99)

    path = path_of(training(step), tmp_path)
    assert path.kernels_ms == {"gemm": pytest.approx(10, abs=0.01)}
    assert path.host_ms["backward"] == pytest.approx(20, abs=0.2)


def test_a_device_that_lags_is_the_path_of_its_own_step(tmp_path: Path) -> None:
    builder = TraceBuilder()
    for number in range(4):
        start = number * 20.0
        builder.mark(f"ProfilerStep#{number}", start, 19.99)
        builder.mark("enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", start, 0.1)
        for at in range(10):
            builder.op("aten::linear", start + 1 + at * 0.5, 0.4)
        builder.backward(start + 8, 6)
        builder.mark("Optimizer.step#SGD.step", start + 15, 2)
        for at in range(10):
            builder.kernel(1.2 + (number * 10 + at) * 8.0, 7.9, launched=start + 1 + at)
    path = path_of(builder, tmp_path)
    assert path.of_device
    assert path.kernels_ms["gemm"] == pytest.approx(79, abs=0.2)
    assert path.unknown_ms == pytest.approx(1, abs=0.2)
    assert sum(path.host_ms.values()) == pytest.approx(0, abs=0.5)


def test_without_a_device_the_path_is_the_host_by_stage_and_operator(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        host(builder, start)
        builder.op("aten::mm", start + 10, 20)
        builder.op("aten::copy_", start + 12, 5)

    path = path_of(training(step), tmp_path)
    assert path.device_busy_ms is None and path.room_ms is None
    assert path.host_ms["forward"] == pytest.approx(39, abs=0.1)
    largest = {(part.operator, part.stage): part.ms for part in path.host}
    assert largest["aten::mm", "forward"] == pytest.approx(15, abs=0.01)
    assert largest["aten::copy_", "forward"] == pytest.approx(5, abs=0.01)
    assert sum(largest.values()) + path.data_wait_ms >= 0.98 * path.step_ms


def test_lines_of_the_hosts_part_are_told_where_stacks_were_recorded(tmp_path: Path) -> None:
    builder = training(host)
    main = builder.python("train.py(9): main", 0, 400)
    for number in range(4):
        builder.python("train.py(30): log", number * 100 + 85, 10, main)
    path = path_of(builder, tmp_path)
    told = {part.site.function: part.ms for part in path.host if part.site and part.stage == "other"}
    assert told["log"] == pytest.approx(10, abs=0.01)


def test_a_thinned_trace_has_no_path(tmp_path: Path) -> None:
    builder = training(host)
    for event in builder.events:
        event["args"]["Ev Idx"] = event["args"].get("Ev Idx", 0) * 50
    assert facts(builder, tmp_path).critical_path is None


times = st.integers(0, 300)
works = st.lists(
    st.tuples(times, st.integers(0, 40), st.integers(0, 3), st.integers(-1, 300), st.integers(0, 20)), max_size=25
)


@given(works, st.lists(st.tuples(times, st.integers(0, 60)), max_size=6), times, st.integers(1, 300), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_pieces_are_the_window_whatever_is_recorded(
    work: list[tuple[int, int, int, int, int]], waits: list[tuple[int, int]], first: int, length: int, device: bool
) -> None:
    """Streams that overlap with themselves, launches after their work, waits for nothing: no gap and no end missed."""
    scale = 1000
    table = np.array(work, dtype=np.int64).reshape(-1, 5) * np.array([scale, scale, 1, scale, scale])
    launched = np.where(table[:, 3] < 0, -1, table[:, 3])
    window = (first * scale, (first + length) * scale)
    launch_end = np.where(launched >= 0, launched + table[:, 4], -1)
    queue = queue_of(table[:, 0], table[:, 0] + table[:, 1], table[:, 2], launched, launch_end, window)
    held = np.array(waits, dtype=np.int64).reshape(-1, 2) * scale
    pieces = walk(window, queue, union(held[:, 0], held[:, 0] + held[:, 1]), device)
    assert pieces[0][1] == window[1] and pieces[-1][0] == window[0]
    assert all(later[0] == earlier[1] for later, earlier in pairwise(pieces))
    assert all(start < end for start, end, _ in pieces)
    for start, end, what in pieces:
        assert what >= UNKNOWN
        if what >= 0:
            number = queue.number[what]
            assert table[number, 0] <= start and end <= table[number, 0] + table[number, 1]


def test_work_whose_launch_was_not_recorded_follows_its_stream() -> None:
    start, end = np.array([0, 20, 50]), np.array([20, 50, 90])
    missing = np.full(3, -1)
    queue = queue_of(start, end, np.zeros(3, dtype=np.int64), missing, missing, (10, 100))
    pieces = walk((10, 100), queue, union(np.array([60]), np.array([95])))
    assert pieces == [(90, 100, HOST), (50, 90, 2), (20, 50, 1), (10, 20, 0)]


@pytest.mark.parametrize(
    "name",
    [
        "resnet50_num_workers_0", "resnet50_num_workers_4", "resnet50_autograd_api_num_workers_0", "a100_6steps_nccl",
        "a100_3steps_nccl", "v100_ns_resolution", "amd_mi250_rocm",
    ],
)  # fmt: skip
def test_paths_of_recorded_traces_agree_with_what_else_is_known(name: str) -> None:
    found = trace_facts(name)
    path, device = found.critical_path, found.device
    assert path is not None and device is not None
    assert sum(path.parts_ms.values()) == pytest.approx(path.step_ms, abs=1e-6)
    step = next(step for step in device.steps if step.index == path.step)
    assert path.step_ms == pytest.approx(step.wall_ms, abs=1e-6)
    assert path.device_busy_ms == pytest.approx(step.busy_ms, abs=1e-6)
    assert sum(path.kernels_ms.values()) <= step.computing_ms + 1e-6
    on_device = sum(path.kernels_ms.values()) + path.copies_ms + path.collectives_ms
    assert on_device <= step.busy_ms + 1e-6
    assert path.launch_ms + path.unknown_ms <= step.wall_ms - on_device + 1e-6


def test_the_recorded_wait_for_data_is_on_the_path() -> None:
    """280 ms of six steps by the truth, and the loop waits for it with nothing else to wait for."""
    path = trace_facts("resnet50_num_workers_0").critical_path
    assert path is not None
    assert path.data_wait_ms == pytest.approx(279.74 / 6, rel=0.1)


def test_a_host_a_whole_step_ahead_leaves_the_path_to_the_device() -> None:
    path = trace_facts("v100_ns_resolution").critical_path
    assert path is not None
    assert path.of_device and sum(path.host_ms.values()) == 0
    assert sum(path.kernels_ms.values()) >= 0.95 * path.step_ms


def test_a_device_that_idles_for_the_host_is_not_on_the_path() -> None:
    path = trace_facts("a100_3steps_nccl").critical_path
    assert path is not None
    assert sum(path.host_ms.values()) >= 0.95 * path.step_ms
