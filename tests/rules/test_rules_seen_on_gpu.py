"""What runs on a GPU taught: plans for shapes, the driver's memory, batches let go of, unaligned kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from device_builder import device, kernel, on_device
from facts_builder import facts, line, loader, memory

from profiler.analysis.device_facts import CopyFacts
from profiler.analysis.facts import MemorySample
from profiler.rules.base import Abstention, Bottleneck, Finding
from profiler.rules.catalogue import judge
from profiler.rules.compute.changing_shapes import ChangingShapes
from profiler.rules.compute.compiler import CompileUnused
from profiler.rules.compute.convolutions import ChannelsLast
from profiler.rules.device import per_step
from profiler.rules.late import late_in
from profiler.rules.memory.driver_allocations import DriverAllocations
from profiler.rules.memory.growth import Growth
from profiler.rules.sync.lines import EmptyCache
from profiler.rules.transfer.copies import PageableMemory

MIB = 2**20
LATE = {"host": 60.0}


def planned(ms_per_step: float, calls: float = 6.0) -> dict:
    name, share = "aten::_cudnn_attention_forward", ms_per_step / 100
    return {
        "name": name,
        "stage": "forward",
        "ms_per_step": ms_per_step,
        "calls_per_step": calls,
        "device": "cpu",
        "share": share,
    }


def with_operators(*rows: dict):
    return replace(on_device(device(40.0, LATE)), operators=rows)


def test_plans_that_are_built_in_each_step_are_named_with_the_hosts_time_for_one():
    said = ChangingShapes().check(with_operators(planned(48.0)))
    assert isinstance(said, Finding)
    assert said.title.startswith("the host plans cuDNN's attention anew for 48 % of each 100 ms step")
    assert said.evidence["call_ms"] == pytest.approx(8.0)
    assert "enable_cudnn_sdp(False)" in said.fix.code
    assert (said.gain.step_ms_low, said.gain.step_ms_high) == pytest.approx((54.4, 61.6))


def test_a_plan_that_is_known_already_takes_hundredths_of_a_millisecond():
    assert ChangingShapes().check(with_operators(planned(48.0, calls=600.0))) is None
    assert ChangingShapes().check(with_operators({**planned(48.0), "device": "cuda"})) is None
    assert ChangingShapes().check(replace(on_device(device(98.0)), operators=(planned(48.0),))) is None


def test_the_driver_is_to_be_let_alone_after_the_first_steps():
    said = DriverAllocations().check(on_device(device(70.0, {"host": 30.0}, driver_memory_ms=12.0)))
    assert isinstance(said, Finding)
    assert said.title == "the driver is asked for memory for 12 % of each 100 ms step"
    assert DriverAllocations().check(on_device(device(70.0, {"host": 30.0}, driver_memory_ms=2.0))) is None
    assert DriverAllocations().check(on_device(device(99.0, driver_memory_ms=12.0))) is None
    thinned = device(70.0, {"host": 30.0}, driver_memory_ms=12.0, thinned=True)
    assert isinstance(DriverAllocations().check(on_device(thinned)), Abstention)


def test_emptying_the_cache_costs_what_the_driver_takes_for_giving_it_back():
    emptied = {"other": (line(61, 10.0, "torch.cuda.empty_cache()"),)}
    alone, both = (
        EmptyCache().check(on_device(device(60.0, {"host": 40.0}, driver_memory_ms=ms), lines=emptied)).gain.step_ms_low
        for ms in (None, 15.0)
    )
    assert (alone, both) == pytest.approx((90.0, 68.75))  # a quarter more: the host loses its lead


def test_a_pageable_batch_is_let_go_of_at_the_line_of_its_copy():
    copies = {"h2d_pageable": CopyFacts(20, 100.0, 200 * MIB)}
    its = on_device(
        device(60.0, {"host": 30.0, "copy": 10.0}, copies=copies),
        loader=loader(pin_memory=False),
        lines={"other": (line(44, 8.0, 'images = images.to("cuda")'),)},
    )
    said = PageableMemory().check(its)
    assert "given back to the system: 8.0 ms more" in said.why
    assert (said.gain.step_ms_low, said.gain.step_ms_high) == pytest.approx((82.0, 90.6))


def test_norms_that_run_channel_by_channel_are_part_of_what_a_layout_costs():
    turned = kernel("nchwToNhwcKernel", "convolution", 200.0)
    norm = kernel("batch_norm_backward_kernel", "normalization", 200.0)
    last = kernel("batch_norm_backward_elemt_channels_last_kernel", "normalization", 200.0)
    gains = [ChannelsLast().check(on_device(device(98.0, kernels=(turned, it)))).gain for it in (norm, last)]
    assert (gains[0].step_ms_low, gains[0].step_ms_high) == pytest.approx((68.0, 76.0))
    assert (gains[1].step_ms_low, gains[1].step_ms_high) == pytest.approx((80.0, 82.0))


@pytest.mark.parametrize(("each", "left"), [(2000, (0.4, 0.7)), (13_000, (0.1, 0.25))])
def test_of_a_long_chain_fusing_leaves_less(each, left):
    kernels = (kernel("add", "elementwise", 600.0, count=each), kernel("gemm", "gemm", 300.0, count=1000))
    gain = CompileUnused().check(on_device(device(98.0, kernels=kernels))).gain
    middle = ((40 + 60 * left[0]) * (40 + 60 * left[1])) ** 0.5
    assert (gain.step_ms_low * gain.step_ms_high) ** 0.5 == pytest.approx(middle)


def test_late_launches_lie_where_the_device_spends_time_in_a_stage_and_runs_nothing_of_it():
    its = on_device(device(30.0, {"host": 70.0}, stages_ms={"forward": 14.0, "backward": 12.0, "optimizer": 4.0}))
    stages = {**its.stages, "optimizer": replace(its.stages["optimizer"], mean_ms=55.0)}
    its = replace(its, stages=stages)
    late = late_in(its, per_step(its))
    assert (late.stage, late.least_ms) == ("optimizer", pytest.approx(51.0))


def test_a_device_that_mostly_updates_parameters_is_bound_by_the_optimizer():
    its = on_device(device(99.0, stages_ms={"forward": 3.0, "backward": 6.0, "optimizer": 90.0}))
    verdict = judge(its).verdict
    assert verdict.bottleneck is Bottleneck.OPTIMIZER
    assert verdict.summary == "Optimizer: the device updates parameters for 90 % of each 100 ms step."


def test_memory_that_is_let_go_of_when_the_script_ends_grew_all_the_same():
    grown = [MemorySample(float(at), 10**9, at * 100 * MIB) for at in range(1, 40)]
    ended = MemorySample(40.0, 10**9, 60 * MIB)
    unread = MemorySample(0.5, 10**9, None)
    its = facts(
        memory=replace(
            memory(),
            growth_bytes_per_step=100.0 * MIB,
            growth_bytes=3800 * MIB,
            growth_on_device=True,
            timeline=(unread, *grown, ended),
            peak_device_bytes=3900 * MIB,
            device_capacity_bytes=80_000 * MIB,
        )
    )
    said = Growth().check(its)
    assert isinstance(said, Finding)
    assert said.title.startswith("the device's memory grows by 100 MiB a step")
