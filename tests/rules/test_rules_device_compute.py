"""Rules of the model's arithmetic that read the device's clock, the model's layers or the CPU's operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from device_builder import device, kernel, on_device
from facts_builder import facts, gpu, line, memory, optimizer, settings, span, stages, steps

from profiler.rules.base import Abstention, Bottleneck, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.compute.batch_too_small import BatchTooSmall
from profiler.rules.compute.compiler import CompileUnused, Recompiling
from profiler.rules.compute.convolutions import ChannelsLast, CudnnBenchmark
from profiler.rules.compute.denormals import Denormals
from profiler.rules.compute.layers import BiasBeforeNorm, FrozenPartsWithGradients
from profiler.rules.compute.mixed_precision import MixedPrecision
from profiler.rules.compute.precision import TensorCoreSizes, Tf32Off
from profiler.rules.compute.small_kernels import SmallKernels
from profiler.rules.compute.unfused_attention import UnfusedAttention
from profiler.rules.optimizer.clip_by_loop import ClipByLoop

BFLOAT16 = {"autocast": {"device": "cuda", "dtype": "bfloat16", "enabled": True}}
RULES = (
    Tf32Off, TensorCoreSizes, CompileUnused, Recompiling, ChannelsLast, CudnnBenchmark, BatchTooSmall, SmallKernels,
    UnfusedAttention, BiasBeforeNorm, FrozenPartsWithGradients, Denormals, MixedPrecision, ClipByLoop,
)  # fmt: skip


def found(rule: Any, its_facts: Any) -> Finding:
    said = rule().check(its_facts)
    assert isinstance(said, Finding), said
    return said


def quiet(rule: Any, its_facts: Any) -> bool:
    """Neither a finding nor an error; it may abstain."""
    return not isinstance(rule().check(its_facts), Finding)


@pytest.mark.parametrize("rule", RULES)
def test_healthy_trainings_are_silent(rule):
    fused = (kernel("sm90_xmma_gemm_bf16", "gemm", 700.0, tensor_cores=True),)
    assert quiet(rule, facts())
    assert quiet(rule, on_device(device(kernels=fused), extra={"channels_last": True}, values=BFLOAT16))
    assert quiet(rule, on_device(None))


# precision

FLOAT32 = (
    kernel("ampere_sgemm_128x64_nn", "gemm", 500.0, tensor_cores=False),
    kernel("vectorized_elementwise_kernel", "elementwise", 460.0),
)


def test_products_in_full_float32_are_told_where_the_device_has_tf32():
    finding = found(Tf32Off, on_device(device(kernels=FLOAT32, tensor_core_share=0.0)))
    assert finding.title == "matrix products in full float32 take 50 % of each 100 ms step"
    assert finding.severity is Severity.WARNING
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((57.5, 72.5))


@pytest.mark.parametrize(
    "changes",
    [
        {"values": {"matmul_precision": "high"}},
        {"values": {"tf32_matmul": True}},
        {"values": BFLOAT16},
        {"dtypes": ("bfloat16",), "extra": {}},
    ],
)
def test_products_in_less_than_float32_are_let_be(changes):
    assert Tf32Off().check(on_device(device(kernels=FLOAT32), **changes)) is None


def test_a_device_without_tf32_and_products_that_used_it_are_let_be():
    volta = device(name="Tesla V100-SXM2-16GB", kernels=FLOAT32)
    used = (kernel("ampere_s1688gemm", "gemm", 500.0, tensor_cores=True), *FLOAT32)
    unknown = (kernel("my_product", "gemm", 500.0),)
    assert Tf32Off().check(on_device(volta)) is None
    assert Tf32Off().check(on_device(device(kernels=used))) is None
    assert isinstance(Tf32Off().check(on_device(device(kernels=unknown))), Abstention)


def test_a_faster_device_helps_only_by_what_the_host_waits_for():
    """The host sets the pace, and waits 4 ms a step for the device."""
    paced = device(70.0, kernels=FLOAT32, sync_ms=50.0, sync_starved_ms=10.0)
    assert quiet(Tf32Off, on_device(paced))
    finding = found(MixedPrecision, on_device(replace(paced, tensor_core_share=0.0)))
    assert finding.gain is None
    assert "The host sets the pace" in finding.why


def test_no_tensor_cores_at_all_is_a_note_about_precision():
    """As in the trace of ResNet-50 on a V100: busy for 97 %, no kernel on tensor cores."""
    kernels = (
        kernel("volta_scudnn_128x64_relu", "convolution", 500.0, tensor_cores=False),
        kernel("cudnn::bn_fw_tr", "normalization", 300.0),
        kernel("vectorized_elementwise_kernel", "elementwise", 170.0),
    )
    its = on_device(device(97.0, kernels=kernels, name=None, tensor_core_share=0.0))
    finding = found(MixedPrecision, its)
    assert finding.severity is Severity.INFO
    assert finding.title.startswith("no kernel ran on tensor cores, and products and convolutions take 50 %")
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((45.7, 68.5), rel=0.01)
    assert judge(its).verdict.bottleneck is Bottleneck.COMPUTE
    unknown = replace(its, device=replace(its.device, kernels=(), name="GPU"), machine=gpu(True))
    unknown = replace(unknown, machine=replace(unknown.machine, device="GPU"))
    assert isinstance(MixedPrecision().check(unknown), Abstention)


ODD = {
    "matrix_parameters": 40_000_000,
    "odd_parameters": 20_000_000,
    "odd_matrices": [{"name": "head", "shape": [50257, 768]}],
}


def test_sizes_that_eight_does_not_divide_are_named():
    product = (kernel("sm90_gemm", "gemm", 500.0, tensor_cores=True),)
    finding = found(TensorCoreSizes, on_device(device(kernels=product), extra=ODD, values=BFLOAT16))
    assert finding.title == "50 % of Net's matrices have a size that 8 does not divide: 50257 x 768"
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((92.5, 97.5))
    assert TensorCoreSizes().check(on_device(device(kernels=product), extra=ODD)) is None  # full float32
    even = ODD | {"odd_parameters": 0}
    assert TensorCoreSizes().check(on_device(device(kernels=product), extra=even, values=BFLOAT16)) is None
    assert isinstance(
        TensorCoreSizes().check(on_device(device(kernels=product), extra={}, values=BFLOAT16)), Abstention
    )


# compiler

CHAIN = (
    kernel("vectorized_elementwise_kernel", "elementwise", 400.0),
    kernel("reduce_kernel", "reduction", 100.0),
    kernel("sm90_gemm", "gemm", 400.0, tensor_cores=True),
)


def test_kernels_that_could_be_fused_are_a_note():
    finding = found(CompileUnused, on_device(device(kernels=CHAIN)))
    assert finding.title == "kernels that could be fused take 50 % of each 100 ms step"
    assert (finding.severity, finding.gain.step_ms_low) == (Severity.INFO, pytest.approx(70.0))
    judgement = judge(on_device(device(kernels=CHAIN)))
    assert ("compute/small-kernels", "compute/compile-unused") in [(it.rule, by) for it, by in judgement.folded]


def test_compiled_models_are_not_to_be_compiled():
    triton = (*CHAIN, kernel("triton_poi_fused_add_0", "elementwise", 10.0))
    assert CompileUnused().check(on_device(device(kernels=triton))) is None
    assert CompileUnused().check(on_device(device(kernels=CHAIN), values={"compile": {}})) is None
    assert CompileUnused({"threshold": 0.6}).check(on_device(device(kernels=CHAIN))) is None


def compiled(graphs=8, spans=16, total_s=16.0, **values):
    intervals = tuple((float(i), i + total_s / spans) for i in range(spans))
    took = replace(span("compile", total_s, 60.0, count=spans), intervals_s=intervals)
    known = {"compiled_graphs": graphs, "compiled_graph_breaks": 0, **values}
    return facts(spans=(took,), settings=replace(settings(), values=known), steps=steps(100.0, measured=195))


def test_compiling_again_and_again_is_counted_beside_the_steps():
    finding = found(Recompiling, compiled(compiled_recompile_limit_hit=True))
    assert finding.title == "torch.compile compiled 8 graphs, which adds 41 % to the steps"
    assert "14 s" not in finding.why
    assert "ran uncompiled" in finding.why
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((100.0, 114.0))


def test_compiling_for_other_sizes_and_for_evaluation_is_let_be():
    assert Recompiling().check(compiled(graphs=3)) is None
    assert Recompiling().check(compiled(graphs=8, compiled_graph_breaks=2)) is None
    assert Recompiling().check(compiled(graphs=None, spans=12)) is None
    assert isinstance(Recompiling().check(compiled(graphs=None, spans=30)), Finding)
    assert Recompiling().check(compiled(total_s=0.5)) is None
    assert Recompiling().check(facts()) is None


# convolutions

TRANSPOSING = (
    kernel("cudnn::ops::nchwToNhwcKernel<float>", "other", 100.0, count=500),
    kernel("cutlass_tensorop_conv", "convolution", 600.0, tensor_cores=True),
)


def test_kernels_that_turn_images_around_are_counted():
    finding = found(ChannelsLast, on_device(device(kernels=TRANSPOSING)))
    assert finding.title == "transposing images for convolutions takes 10 % of each 100 ms step"
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((90.0, 91.0))
    assert ChannelsLast().check(on_device(device(kernels=TRANSPOSING), extra={"channels_last": True})) is None
    host_paces = device(23.0, kernels=TRANSPOSING)  # as in the trace of three steps on an A100
    assert ChannelsLast().check(on_device(host_paces)) is None


def test_untimed_convolutions_are_a_note():
    off = {"cudnn_benchmark": False, "cudnn_deterministic": False}
    finding = found(CudnnBenchmark, on_device(device(kernels=TRANSPOSING), values=off))
    assert (finding.severity, finding.gain.step_ms_low) == (Severity.INFO, pytest.approx(91.0))
    for chosen in ({"cudnn_benchmark": True}, {**off, "cudnn_deterministic": True}):
        assert CudnnBenchmark().check(on_device(device(kernels=TRANSPOSING), values=chosen)) is None
    assert isinstance(CudnnBenchmark().check(on_device(device(kernels=TRANSPOSING))), Abstention)


# layers


def layered(extra, trainable=1000, times_ms=None, **changes):
    made = settings()
    root = replace(made.roots[0], extra=extra, trainable_parameters=trainable)
    return facts(times_ms, settings=replace(made, roots=(root,)), **changes)


def test_biases_that_a_norm_takes_away_are_a_note():
    biased = {"biased_before_norm": 3, "biased_before_norm_names": ["conv1", "conv2", "conv3"]}
    finding = found(BiasBeforeNorm, layered(biased))
    assert finding.title == "3 layers of Net have a bias that the batch norm after them takes away"
    assert finding.why.startswith("conv1, conv2 and conv3: ")
    assert (finding.severity, finding.gain, finding.fix.line) == (Severity.INFO, None, 41)
    assert BiasBeforeNorm().check(layered({"biased_before_norm": 1})) is None
    waits = {"data_wait": 80.0, "forward": 8.0, "backward": 12.0}
    assert BiasBeforeNorm().check(layered(biased, times_ms=waits)) is None


FROZEN = {"not_updated_parameters": 900, "not_updated_before": 900, "not_updated_first": "backbone"}


def test_gradients_of_a_part_that_nobody_updates_are_told():
    finding = found(FrozenPartsWithGradients, layered(FROZEN))
    assert finding.title == "90 % of Net's parameters get gradients, and no optimizer updates them"
    assert "backbone.requires_grad_(False)" in finding.fix.code
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((38.4, 52.8), abs=0.1)


def test_a_frozen_part_behind_a_trained_one_is_a_note_without_a_promise():
    finding = found(FrozenPartsWithGradients, layered(FROZEN | {"not_updated_before": 100}))
    assert (finding.severity, finding.gain) == (Severity.INFO, None)
    assert FrozenPartsWithGradients().check(layered(FROZEN, trainable=100_000)) is None
    away = layered(FROZEN, machine=gpu(False))
    assert isinstance(FrozenPartsWithGradients().check(away), Abstention)


# operators of the CPU


def operator(name, stage, ms, calls):
    return {"name": name, "stage": stage, "ms_per_step": ms, "calls_per_step": calls, "device": "cpu"}


def watched(*rows, lines=()):
    """A step of 100 ms: 30 forward, 60 backward; the window saw twice as much, since it slows operators."""
    times = {"forward": 30.0, "backward": 60.0, "optimizer": 10.0}
    rest = (operator("aten::addmm", "forward", 60.0, 10), operator("aten::mm", "backward", 120.0, 20))
    taken = {stage: sum(row["ms_per_step"] for row in rows if row["stage"] == stage) for stage in times}
    rest = tuple({**row, "ms_per_step": row["ms_per_step"] - taken[row["stage"]]} for row in rest)
    return facts(times, stages=stages(times, {"forward": lines}), operators=(*rows, *rest))


ATTENTION = (
    operator("aten::_softmax", "forward", 10.0, 4),
    operator("aten::bmm", "forward", 10.0, 8),
    operator("aten::_softmax_backward_data", "backward", 10.0, 4),
    operator("aten::bmm", "backward", 30.0, 16),
)


def test_attention_that_is_written_out_is_named_at_its_softmax():
    finding = found(UnfusedAttention, watched(*ATTENTION, lines=(line(12, 2.0, "a = F.softmax(scores, -1)"),)))
    assert finding.title == "attention written out takes 30 % of each 100 ms step"
    assert finding.fix.line == 12
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((74.5, 85.0))


def test_fused_attention_and_a_softmax_alone_are_let_be():
    fused = operator("aten::_scaled_dot_product_flash_attention_for_cpu", "forward", 10.0, 4)
    assert UnfusedAttention().check(watched(*ATTENTION, fused)) is None
    assert UnfusedAttention().check(watched(ATTENTION[0])) is None
    assert UnfusedAttention({"threshold": 0.4}).check(watched(*ATTENTION)) is None
    assert isinstance(UnfusedAttention().check(facts()), Abstention)


def test_attention_on_a_device_is_judged_by_its_kernels():
    kernels = (
        kernel("softmax_warp_forward", "reduction", 100.0, operator="aten::_softmax", stage="forward"),
        kernel("gemm", "gemm", 200.0, operator="aten::bmm"),
    )
    finding = found(UnfusedAttention, on_device(device(kernels=kernels)))
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((79.0, 88.0))
    flash = (*kernels, kernel("flash_fwd_kernel", "attention", 1.0))
    assert UnfusedAttention().check(on_device(device(kernels=flash))) is None


WRITTEN = (
    operator("aten::mul", "forward", 12.0, 20),
    operator("aten::pow", "forward", 8.0, 4),
    operator("aten::add", "forward", 10.0, 9),
    operator("aten::mul", "backward", 40.0, 30),
)


def test_chains_of_element_wise_operators_are_named_at_their_line():
    finding = found(SmallKernels, watched(*WRITTEN, lines=(line(19, 2.0, "x = 0.5 * x * (1 + torch.tanh(x))"),)))
    assert finding.title == "63 element-wise operators take 35 % of each 100 ms step"
    assert finding.fix.line == 19
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((77.25, 89.5))


def test_additions_alone_are_no_chain():
    assert SmallKernels().check(watched(operator("aten::add", "forward", 50.0, 9))) is None
    assert isinstance(SmallKernels().check(facts()), Abstention)


def test_calling_operators_for_little_work_is_a_note_about_the_batch():
    busy = (operator("aten::relu", "forward", 20.0, 6000), operator("aten::mm", "backward", 50.0, 12_000))
    finding = found(BatchTooSmall, watched(*busy))
    assert (finding.severity, finding.gain) == (Severity.INFO, None)
    assert finding.title == "forward and backward call 18,000 operators of 5.0 µs on the mean"
    assert "batch_size=64" in finding.fix.code
    assert BatchTooSmall().check(watched(operator("aten::relu", "forward", 20.0, 600))) is None
    views = operator("aten::view", "forward", 20.0, 60_000)
    assert BatchTooSmall().check(watched(views)) is None


def test_a_device_that_idles_over_short_kernels_has_too_small_a_batch():
    short = (kernel("k", "elementwise", 400.0, count=80_000),)
    idle = device(40.0, {"host": 60.0}, kernels=short)
    assert "5 µs" in found(BatchTooSmall, on_device(idle)).title
    full = memory(peak_device_bytes=60, device_capacity_bytes=80)
    assert BatchTooSmall().check(on_device(idle, memory=full)) is None
    long = (kernel("k", "elementwise", 400.0, count=8_000),)
    assert BatchTooSmall().check(on_device(device(40.0, {"host": 60.0}, kernels=long))) is None


# denormals and clipping


def fading(share=0.8, slowdown=2.0, step=10.0, part="step"):
    times = {"forward": 4.0, "backward": 6.0, "optimizer": step}
    known = replace(settings(), values={"denormals": {"state": "exp_avg", "share": share, "slowdown": slowdown}})
    return facts(times, stages=stages(times, optimizer={part: step}), settings=known)


def test_denormal_moments_are_told_by_the_slowdown_measured_on_the_machine():
    finding = found(Denormals, fading())
    assert finding.title == (
        "80 % of the optimizer's exp_avg are denormal numbers, and its step() takes 50 % of each 20 ms step"
    )
    saves = 10 * (1 - 1 / 1.8)
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((20 - 1.3 * saves, 20 - 0.7 * saves))


def test_few_denormals_and_a_cpu_that_does_not_mind_them_are_let_be():
    assert Denormals().check(fading(share=0.09)) is None
    assert Denormals().check(fading(slowdown=1.1)) is None
    assert Denormals().check(replace(fading(), machine=gpu(True))) is None
    assert isinstance(Denormals().check(fading(part="zero_grad")), Abstention)


CLIPPED = line(50, 4.0, "total += p.grad.data.norm(2).item() ** 2")
SCALED = line(53, 2.0, "p.grad.data.mul_(scale)")


def clipping(*lines, parameters=150_000, **changes):
    times = {"forward": 6.0, "backward": 6.0, "optimizer": 2.0, "other": 6.0}
    known = settings(optimizers=(optimizer(fused=True, parameters=parameters),))
    return facts(times, stages=stages(times, {"other": lines}), settings=known, **changes)


def test_clipping_in_a_loop_is_to_be_one_call():
    finding = found(ClipByLoop, clipping(CLIPPED, SCALED))
    assert finding.title.startswith("clipping gradients in a loop takes 30 % of each 20 ms step: train.py:50")
    error = 0.03  # nothing else was seen in the stage
    expected = (20 - 0.6 * 6 * (1 + error), 20 - 0.25 * 6 * (1 - error))
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx(expected)


def test_other_lines_large_tensors_and_thin_samples_are_not_called_clipping():
    assert ClipByLoop().check(clipping(line(50, 6.0, "total += loss.item()"))) is None
    assert isinstance(ClipByLoop().check(clipping(CLIPPED, parameters=1_500_000)), Abstention)
    assert isinstance(ClipByLoop().check(clipping(replace(CLIPPED, samples=5))), Abstention)
    assert isinstance(ClipByLoop().check(clipping(CLIPPED, machine=gpu(True))), Abstention)
