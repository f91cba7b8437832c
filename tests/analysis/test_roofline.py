"""Arithmetic and bytes of operators: by hand, by torch's own counter, and beside the peaks of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_traces import trace_facts
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from trace_builder import ENGINE, TraceBuilder, training, usual_host

from profiler.analysis.device.peaks import peaks_of
from profiler.analysis.device.work import CallWork, work_of
from profiler.analysis.facts import Facts
from profiler.analysis.roofline_facts import OperatorWork
from profiler.analysis.trace.facts import facts_of
from profiler.record.trace.read import read_trace
from profiler.record.trace.shapes import Given

BF16, FP32 = "c10::BFloat16", "float"
GIB = 2**30


def given(*shapes: list[int], word: str = BF16, values: tuple[Any, ...] = ()) -> Given:
    return Given(shapes, tuple(word if shape else "Scalar" for shape in shapes), values)


@pytest.mark.parametrize(
    ("name", "what", "flops", "moved", "form"),
    [
        ("aten::mm", given([64, 32], [32, 16]), 2 * 64 * 32 * 16, 2 * (64 * 32 + 32 * 16 + 64 * 16), "bf16"),
        (
            "aten::addmm", given([16], [64, 32], [32, 16], [], [], word=FP32),
            2 * 64 * 32 * 16, 4 * (16 + 64 * 32 + 32 * 16 + 64 * 16), "fp32",
        ),
        (
            "aten::bmm", given([4, 8, 32], [4, 32, 16]),
            2 * 4 * 8 * 32 * 16, 2 * (4 * 8 * 32 + 4 * 32 * 16 + 4 * 8 * 16), "bf16",
        ),
        ("aten::add", given([10, 7], [7], [], word=FP32), None, 4 * (70 + 7 + 70), "fp32"),
        ("aten::mul_", given([10, 7], [], word=FP32), None, 4 * 140, "fp32"),
        ("aten::copy_", Given(([10], [10], []), (BF16, FP32, "Scalar"), ()), None, 2 * 10 + 4 * 10, "bf16"),
        ("aten::sum", given([10, 7], [], word=FP32), None, 4 * 70, "fp32"),
        ("aten::native_dropout", given([10], [], []), None, 2 * 10 + 2 * 10 + 10, "bf16"),
        (  # 8 images of 3 channels and 32² to 16 channels, a kernel of 3², stride 2, padding 1: 16² places
            "aten::convolution",
            given([8, 3, 32, 32], [16, 3, 3, 3], [], [], [], [], [], [], [],
                  values=(None, None, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1)),
            2 * 8 * 16 * 16 * 16 * 3 * 9, 2 * (8 * 3 * 32 * 32 + 16 * 3 * 9 + 8 * 16 * 16 * 16), "bf16",
        ),
        (
            "aten::_scaled_dot_product_flash_attention", given([2, 4, 128, 64], [2, 4, 128, 64], [2, 4, 128, 64], []),
            4 * 2 * 4 * 128 * 128 * 64, 2 * 4 * (2 * 4 * 128 * 64), "bf16",
        ),
    ],
)  # fmt: skip
def test_work_of_a_call_is_what_a_person_computes(
    name: str, what: Given, flops: int | None, moved: int | None, form: str
) -> None:
    assert work_of(name, what) == CallWork(flops, moved, form)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("aten::convolution", given([8, 3, 32, 32], [16, 3, 3, 3])),  # without its strides
        ("aten::convolution_backward", given([8, 16, 16, 16], [8, 3, 32, 32], [16, 3, 3, 3])),
        ("aten::mm", given([], [])),
        ("aten::_scaled_dot_product_attention_math", given([2, 4, 8, 8], [2, 4, 8, 8], [2, 4, 8, 8])),
        ("aten::add", Given(([10], [10]), ("some::Type", "some::Type"), ())),
        ("aten::add", Given((), (), ())),
        ("aten::mm", Given(([[1]], "x"), (BF16,), ())),
    ],
)
def test_work_that_is_not_told_is_not_guessed(name: str, what: Given) -> None:
    found = work_of(name, what)
    assert (found.flops, found.bytes) == (None, None)


def test_without_types_the_arithmetic_is_told_and_the_bytes_are_not() -> None:
    assert work_of("aten::mm", Given(([64, 32], [32, 16]), (), ())) == CallWork(2 * 64 * 32 * 16, None, None)


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.last = torch.nn.Linear(8, 24)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(images).relu()).flatten(2).transpose(1, 2)
        query, key, value = self.last(hidden).view(len(images), -1, 2, 12).transpose(1, 2).split(4, dim=-1)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value) @ value.transpose(-1, -2)


def test_operations_agree_with_torchs_own_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of convolutions, products and attention; the counter looks at operators as they run."""
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")  # read once a process: later tests ask what is written to stderr
    model, images = _Model(), torch.randn(4, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as seen:
        model(images).sum().backward()
    path = tmp_path / "it.json"
    seen.export_chrome_trace(str(path))
    recording = read_trace(path)
    operators, names = recording.operators, recording.names
    attention = (4, 2, 64, 4)  # the counter does not know the CPU's
    unseen = sdpa_flop_count(attention, attention, attention)
    unseen += sdpa_backward_flop_count(attention, attention, attention, attention)
    total = sum(
        work_of(names[name], recording.given[number]).flops or 0
        for name, number in zip(operators.name.tolist(), operators.given.tolist(), strict=True)
        if number >= 0
    )
    assert total == counter.get_total_flops() + unseen
    monkeypatch.setattr("profiler.analysis.trace.roofline.MOST_ROWS", 1000)  # the shortest product may be the 21st row
    roofline = facts_of(recording).facts.roofline
    assert roofline is not None and roofline.peaks is None and not roofline.on_device
    assert sum((row.flops or 0) * row.count for row in roofline.rows) == total
    assert all(row.bound is None for row in roofline.rows)
    assert 0.1 < roofline.told_share <= 1


def with_shapes(builder: TraceBuilder, start: float) -> None:
    """A product of 2 ms, an addition of 1 ms, launched beneath what wraps them, and a kernel of neither."""
    usual_host(builder, start)
    for name, at, took, dims, thread in (
        ("aten::mm", 10, 2.0, [[4096, 4096], [4096, 4096]], 4000),
        ("aten::add_", 50, 1.0, [[1 << 24], [1 << 24], []], ENGINE),
    ):
        builder.event(
            "cpu_op", name, start + at, 0.5, builder.pid, thread,
            **{"Input Dims": dims, "Input type": [BF16 if it else "Scalar" for it in dims], "Ev Idx": None},
        )  # fmt: skip
        builder.op("aten::resize_", start + at + 0.2, 0.2, thread)
        builder.kernel(start + at + 0.4, took, launched=start + at + 0.3, thread=thread, name="sm80_xmma_gemm_bf16")
    builder.kernel(start + 60, 1.0, launched=start + 59)


def facts(builder: TraceBuilder, tmp_path: Path, device: str | None = None, gib: float = 40) -> Facts:
    if device is not None:
        builder.head["deviceProperties"] = [{"id": 0, "name": device, "totalGlobalMem": int(gib * GIB)}]
    return facts_of(read_trace(builder.write(tmp_path / "made.json"))).facts


def test_kernels_count_for_the_operator_whose_work_is_told(tmp_path: Path) -> None:
    found = facts(training(with_shapes), tmp_path, "NVIDIA A100-SXM4-40GB", 39.6).roofline
    assert found is not None and found.peaks is not None
    product, addition = found.rows
    assert (product.operator, product.count, product.shapes) == ("aten::mm", 4, ((4096, 4096), (4096, 4096)))
    assert product.tflops == pytest.approx(2 * 4096**3 / 2e-3 / 1e12)  # 68.7
    assert product.intensity == pytest.approx(4096 / 3)
    assert (product.bound, product.roof_share) == ("arithmetic", pytest.approx(68.7 / 312, rel=1e-3))
    assert addition.gbs == pytest.approx(3 * 2 * 2**24 / 1e-3 / 1e9)  # 100.7
    assert (addition.bound, addition.roof_share) == ("memory", pytest.approx(100.7 / 1555, rel=1e-3))
    assert found.told_share == pytest.approx(3 / 4)


def test_a_device_that_is_not_known_leaves_the_limit_unmeasured(tmp_path: Path) -> None:
    found = facts(training(with_shapes), tmp_path, "Some GPU").roofline
    assert found is not None and found.peaks is None
    assert all(row.bound is None and row.roof_share is None for row in found.rows)
    assert found.rows[0].tflops is not None


def test_without_shapes_there_is_no_roofline(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        builder.kernel(start + 10, 1, launched=start + 9)

    assert facts(training(step), tmp_path).roofline is None


def test_shapes_of_the_wrong_type_are_as_good_as_none(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        for number, dims in enumerate(("text", 7, {"a": 1}, [["x"], [None]], [[-1, 2], [2, 2]], [[1 << 70], [1]])):
            builder.event("cpu_op", "aten::mm", start + 10 + number, 0.5, builder.pid, 4000, **{"Input Dims": dims})
            builder.kernel(start + 20 + number, 0.1, launched=start + 10.1 + number)

    found = facts(training(step), tmp_path)
    assert found.device is not None
    assert found.roofline is None or all(row.roof_share is None for row in found.roofline.rows)


@pytest.mark.parametrize(
    ("name", "gib", "memory_gbs"),
    [
        ("NVIDIA A100-SXM4-40GB", 39.6, 1555), ("NVIDIA A100-PG509-200", 39.4, 1555),
        ("NVIDIA A100-SXM4-80GB", None, 2039),
        ("NVIDIA H100 80GB HBM3", 79.1, 3350), ("NVIDIA H200", 139.8, 4800), ("Tesla V100-SXM2-32GB", 31.7, 900),
        ("NVIDIA GeForce RTX 4090", 23.6, 1008), ("AMD Instinct MI300X", 191.7, 5300),
    ],
)  # fmt: skip
def test_a_device_is_known_by_its_drivers_name_and_its_memory(name: str, gib: float | None, memory_gbs: float) -> None:
    found = peaks_of(name, int(gib * GIB) if gib else None)
    assert found is not None and found.bytes_per_s is not None
    assert found.bytes_per_s / 1e9 == pytest.approx(memory_gbs, rel=0.02)


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA H100 NVL", 93.6), ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.7), ("AMD Radeon Graphics", 64.0),
        ("Tesla V100-PCIE-16GB", 15.8), ("NVIDIA A100", None), ("", None), ("cpu", None), ("NVIDIA RTX 6000 Ada", 47.5),
        ("NVIDIA A100-SXM4-40GB", 79.0),
    ],
)  # fmt: skip
def test_a_device_that_may_be_another_is_not_guessed(name: str, gib: float | None) -> None:
    assert peaks_of(name, int(gib * GIB) if gib else None) is None


def test_an_operator_too_small_for_the_device_is_limited_by_neither() -> None:
    small = OperatorWork("aten::mul", ((512,), (512,)), "fp32", 100, 0.8, None, 6144.0, 19.5e12, 1555e9)
    assert (small.bound, small.roof_share) == ("size", None)
    product = OperatorWork("aten::mm", ((64, 64), (64, 64)), "fp32", 100, 0.8, 2.0 * 64**3, 49152.0, 19.5e12, 1555e9)
    assert product.bound == "size"


def test_what_comes_from_a_cache_reaches_no_share_of_the_memory() -> None:
    row = OperatorWork("aten::add", ((1 << 20,),), "fp32", 1, 0.001, None, 6e6, 19.5e12, 1555e9)
    assert row.bound == "memory"
    assert row.gbs == pytest.approx(6000)
    assert row.roof_share is None


@pytest.mark.parametrize("name", ["a100_6steps_nccl", "sampled_rank-0", "amd_mi250_rocm"])
def test_recorded_operators_stay_below_the_peaks(name: str) -> None:
    found = trace_facts(name).roofline
    assert found is not None
    for row in found.rows:
        assert row.tflops is None or row.tflops < 156
        assert row.gbs is None or row.gbs < 1.05 * 2039
