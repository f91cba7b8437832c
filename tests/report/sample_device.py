"""Results of runs whose device's own clock was read: a trace, a deep window, a thinned trace, and an attack."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from sample_base import HOSTILE, TRAIN, data_bound, histogram, stage, timeline

from profiler.analysis.device_facts import CollectiveFacts, CopyFacts, DeviceFacts, DeviceStep, KernelFacts, SyncCall
from profiler.analysis.excerpt import CALLS, DEVICE, OPERATORS, STAGES, ExcerptRow, StepExcerpt
from profiler.analysis.site import Site
from profiler.rules.base import Bottleneck, Severity
from profiler.rules.verdict import Judgement, Result, Verdict

IDLE_MS = {"host": 60.3, "sync": 0.9, "data_wait": 0.4, "copy": 3.1, "communication": 0.0, "unknown": 11.99}
ELEMENTWISE = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, "
    "at::detail::Array<char*, 3> >(int, at::native::CUDAFunctor_add<float>, at::detail::Array<char*, 3>)"
)
GEMM = "ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_nn"


def device_steps(count: int, wall_ms: float, idle_ms: dict[str, float]) -> tuple[DeviceStep, ...]:
    """Steps that wander a little."""
    dice = random.Random(5)
    made = []
    for index in range(count):
        sway = 1 + dice.gauss(0, 0.04)
        idle = {cause: value * sway for cause, value in idle_ms.items()}
        made.append(DeviceStep(index, wall_ms * sway, wall_ms * sway - sum(idle.values()), idle))
    return tuple(made)


def device_facts() -> DeviceFacts:
    """An A100 in six steps of a recommendation model, one of eight ranks."""
    kernels = [
        KernelFacts(GEMM, "gemm", "backward", 720, 88.2, True, "aten::mm", Site(TRAIN, 57)),
        KernelFacts("ncclKernel_AllReduce_RING_LL_Sum_float", "collective", "backward", 30, 101.4, None),
        KernelFacts(ELEMENTWISE, "elementwise", "forward", 2210, 31.9, False, "aten::add", Site(TRAIN, 55)),
    ]
    kernels += [
        KernelFacts(f"kernel_{index}", "reduction", "forward", 60, 9.0 / (index + 1), None) for index in range(30)
    ]
    return DeviceFacts(
        name="NVIDIA A100-SXM4-40GB",
        source="trace",
        span_ms=465.28,
        busy_ms=388.59,
        steps_busy_share=0.835,
        kernel_count=8568,
        kernel_ms=369.26,
        kernel_sum_ms=446.8,
        tensor_core_share=0.15,
        copies={
            "h2d_pinned": CopyFacts(150, 50.66, 423_923_260),
            "d2h": CopyFacts(60, 0.21, None),
            "d2d": CopyFacts(18, 0.09, 1_204_224),
        },
        collectives_ms=163.54,
        collectives_exposed_ms=87.92,
        collectives=(
            CollectiveFacts("all_to_all", 24, 90.1, 61.2, 88_080_384, "float16"),
            CollectiveFacts("all_reduce", 30, 73.4, 26.7, None, None),
        ),
        idle_ms=IDLE_MS,
        sync_ms=75.9,
        sync_starved_ms=0.9,
        syncs=(
            SyncCall("cudaMemcpyAsync", "aten::item", "other", 30, 37.0, 0.4, Site(TRAIN, 61)),
            SyncCall("cudaStreamSynchronize", "", "", 30, 38.9, 0.5),
        ),
        stages_ms={"host_to_device": 8.4, "forward": 21.2, "backward": 38.0, "optimizer": 1.4, "": 0.3},
        families=(
            KernelFacts("collective", "collective", "", 60, 163.9, None),
            KernelFacts("gemm", "gemm", "", 1440, 130.1, None),
            KernelFacts("elementwise", "elementwise", "", 5100, 82.0, None),
            KernelFacts("embedding", "embedding", "", 300, 40.4, None),
            KernelFacts("reduction", "reduction", "", 1668, 30.4, None),
        ),
        kernels=tuple(sorted(kernels, key=lambda kernel: -kernel.ms)),
        launch_delay_us=613.0,
        queue_depth=41.0,
        steps=device_steps(6, 77.49, {cause: value / 6 for cause, value in IDLE_MS.items()}),
        memory_timeline=tuple((4.6 * index, int(9e9 + 6e9 * math.sin(index / 5) ** 2)) for index in range(100)),
    )


def excerpt(index: int, what: str, wall_ms: float, name: str = "aten::mm", kernel: str = GEMM) -> StepExcerpt:
    """A step of four stages, many operators and more kernels."""
    dice = random.Random(index)
    quarter = wall_ms * 250
    stages = ("data_wait", "forward", "backward", "optimizer")
    starts = [number * quarter / 100 for number in range(400)]
    families = tuple(dice.choice(["gemm", "elementwise", "reduction", "h2d_pinned"]) for _ in starts)
    lengths = tuple(dice.uniform(0.2, 0.9) * quarter / 100 for _ in starts)
    rows = (
        ExcerptRow(
            "stages", STAGES, "host", tuple(n * quarter for n in range(4)), (quarter,) * 4, ("step",) * 4, stages
        ),
        ExcerptRow("operators", OPERATORS, "host", tuple(starts), lengths, (name,) * 400, ("",) * 400),
        ExcerptRow("waits", CALLS, "host", (quarter,), (quarter / 3,), ("cudaStreamSynchronize",), ("",)),
        ExcerptRow("stream 7", DEVICE, "device 0", tuple(starts), lengths, (kernel,) * 400, families),
        ExcerptRow("stream 21", DEVICE, "device 0", (quarter * 2,), (quarter,), (kernel,), ("collective",)),
    )
    return StepExcerpt(index, what, index * 77.5, wall_ms, rows)


def gpu_trace() -> Result:
    """A trace that somebody brought."""
    base = data_bound()
    shares = {
        "data_wait": 0.001,
        "host_to_device": 0.002,
        "forward": 0.423,
        "backward": 0.432,
        "optimizer": 0.033,
        "other": 0.109,
    }
    means = {name: 77.49 * share for name, share in shares.items()}
    assert base.facts.steps
    facts = replace(
        base.facts,
        run=replace(base.facts.run, name="a100_6steps", command=("a100_6steps.json.gz",), torch=None, python=None),
        machine=replace(
            base.facts.machine, device="NVIDIA A100-SXM4-40GB", asynchronous=True, device_times=True, idle_cores=None
        ),
        steps=replace(
            base.facts.steps,
            count=6,
            warmup=0,
            measured=6,
            median_ms=76.83,
            mean_ms=77.49,
            p5_ms=75.9,
            p95_ms=80.1,
            outliers=(),
            outlier_share=0.0,
        ),
        stages={name: stage(name, means[name], share) for name, share in shares.items()},
        workers=None,
        memory=replace(
            base.facts.memory,
            peak_rss_bytes=None,
            stage_peak_bytes={},
            categories_bytes={},
            activations_by_module=(),
            timeline=(),
        ),
        spans=(),
        timeline=timeline(means, rows=6, steps_per_row=1),
        histogram=None,
        operators=(),
        not_measured={"memory": "the trace has no memory events", "workers": "a trace does not show them"},
        device=device_facts(),
        excerpts=(excerpt(2, "typical", 76.9), excerpt(5, "slow", 96.2)),
    )
    verdict = Verdict(
        Bottleneck.COMMUNICATION,
        None,
        Severity.WARNING,
        "Communication: collectives that nothing hides take 19 % of the time.",
    )
    return Result(facts, Judgement(verdict, (), (), ()))


def gpu_window() -> Result:
    """A live run whose device was looked at for a few steps of many."""
    base = gpu_trace()
    assert base.facts.device and base.facts.steps
    device = replace(
        base.facts.device,
        source="window",
        name=None,
        collectives_ms=0.0,
        collectives_exposed_ms=0.0,
        collectives=(),
        steps=device_steps(1000, 77.5, {"host": 12.0, "data_wait": 2.0}),
        flops_per_step=3.1e12,
        mfu=0.41,
        peak_tflops=312.0,
        launch_delay_us=None,
        queue_depth=None,
        sync_ms=0.0,
        syncs=(),
        memory_timeline=(),
    )
    facts = replace(
        base.facts, device=device, histogram=histogram(77.0, 2.0, 6000), excerpts=(excerpt(7, "watched", 140.0),)
    )
    return Result(facts, base.judgement)


def thinned() -> Result:
    """A trace from which most host events were taken out: idle time means nothing."""
    base = gpu_trace()
    assert base.facts.device
    device = replace(
        base.facts.device,
        thinned=True,
        idle_ms=None,
        stages_ms={},
        syncs=(),
        copies={},
        kernels=(),
        steps=tuple(replace(step, idle_ms={}) for step in base.facts.device.steps),
    )
    return Result(replace(base.facts, device=device), base.judgement)


def hostile_device() -> Result:
    """Everything that a trace can name is an attack."""
    base, bad = gpu_trace(), HOSTILE
    assert base.facts.device
    site = Site(f"/tmp/{bad}.py", 7, bad)
    kernel = KernelFacts(f"void {bad}<4, {bad}>({bad})" * 20, bad, bad, 3, 9.0, True, bad, site)
    device = replace(
        base.facts.device,
        name=bad,
        kernels=(kernel,),
        families=(kernel,),
        copies={bad: CopyFacts(1, 1.0, 5)},
        collectives=(CollectiveFacts(bad, 1, 1.0, 1.0, 5, bad),),
        syncs=(SyncCall(bad, bad, bad, 1, 1.0, 0.5, site),),
        stages_ms={bad: 1.0},
    )
    attacked = replace(
        excerpt(1, bad, 77.0, bad, bad), rows=(*excerpt(1, bad, 77.0, bad, bad).rows, _attacked_row(bad))
    )
    return Result(replace(base.facts, device=device, excerpts=(attacked,)), base.judgement)


def _attacked_row(bad: str) -> ExcerptRow:
    return ExcerptRow(bad, DEVICE, bad, (0.0,), (5000.0,), (bad,), (bad,))


ALL = {
    "gpu_trace": gpu_trace,
    "gpu_window": gpu_window,
    "thinned": thinned,
    "hostile_device": hostile_device,
}
