"""A plan: the answers to "will it fit, how long will it take, what will it cost" for one request.

In:  `Request`: a model, a device, how to train.
Out: `Plan`: memory, time and cost, with what was assumed. `None` means not known, never zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from profiler.errors import ProfError
from profiler.planner.activations import RECOMPUTE
from profiler.planner.answers import CostAnswer, MemoryAnswer, TimeAnswer
from profiler.planner.architecture import Model
from profiler.planner.assumptions import assumptions
from profiler.planner.calibration import Calibration, predict
from profiler.planner.catalogue import Device
from profiler.planner.efficiency import published
from profiler.planner.flops import model_flops_per_unit, recompute_factor
from profiler.planner.layout import OFFLOADS, Layout, impossible, known_strategy, with_precision
from profiler.planner.memory import CONTEXT_BYTES, fits, least_devices, memory
from profiler.planner.quantity import HOUR_S
from profiler.planner.states import known_optimizer, known_precision
from profiler.planner.timing import Efficiency, StepTime, bound_by, step_time

FIT_WORDS = {1: "yes", 0: "unsure", -1: "no"}


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be planned. Degrees and batches left at None are chosen and the choice is told."""

    model: Model | None
    device: Device
    devices: int = 1
    precision: str = "bf16-mixed"
    optimizer: str = "adamw"
    strategy: str = "ddp"
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    sequence_parallel: bool = False
    recompute: str = "none"
    flash: bool = True
    offload: str = "none"
    micro_batch: int | None = None  # samples per device and pass
    global_batch: int | None = None  # samples per step
    units: float | None = None  # tokens (or samples) to train on in all
    flops: float | None = None  # of the whole training, where given instead
    efficiency: Efficiency | None = None  # None: the catalogue's range
    loader_samples_per_s: float | None = None  # of one rank's loader
    goodput: float = 1.0  # productive share of the elapsed time
    calibration: Calibration | None = None  # measured runs, which then give the step
    workers: int | None = None  # DataLoader workers, where others than the run's


@dataclass(frozen=True, slots=True)
class Plan:
    """A request and its answers."""

    request: Request
    layout: Layout | None
    memory: MemoryAnswer
    time: TimeAnswer
    cost: CostAnswer
    efficiency: Efficiency
    assumptions: tuple[str, ...]


def make_plan(request: Request, *, count_devices: bool = True) -> Plan:
    """Answer a request. Raises ProfError for what can't be; `count_devices=False` skips the least device count."""
    _refuse_absurd(request)
    precision = known_precision(request.precision)
    efficiency = request.efficiency
    if efficiency is None:
        efficiency = published(request.device, request.model or _nothing(), precision.name)
    if request.model is None:
        layout = with_precision(
            Layout(float(request.devices)), precision, known_optimizer(request.optimizer), request.device
        )
        time = _whole_time(request, layout, efficiency, None)
        return Plan(
            request,
            None,
            _no_memory(request),
            time,
            _cost(request, time),
            efficiency,
            assumptions(request, None, efficiency),
        )
    layout = layout_of(request)
    memory_answer = _memory(request, request.model, layout, count_devices)
    time = _time(request, request.model, layout, efficiency)
    return Plan(
        request, layout, memory_answer, time, _cost(request, time), efficiency, assumptions(request, layout, efficiency)
    )


def layout_of(request: Request) -> Layout:
    """The layout a request asks for, its batches filled in. Raises ProfError for an impossible one."""
    model = request.model
    assert model is not None
    zero = known_strategy(request.strategy)
    if request.recompute not in RECOMPUTE:
        raise ProfError(f"--recompute is one of {', '.join(RECOMPUTE)}, not '{request.recompute}'.")
    if request.offload not in OFFLOADS:
        raise ProfError(f"--offload is one of {', '.join(OFFLOADS)}, not '{request.offload}'.")
    group = request.tensor * request.pipeline
    replicas = max(1, request.devices // group)
    micro = request.micro_batch or default_micro_batch(model, request.global_batch, replicas)
    asked = request.global_batch or max(model.global_batch or 0, micro * replicas * _accumulated(model, micro))
    micro_batches = max(1, math.ceil(asked / (micro * replicas)))
    base = Layout(
        devices=float(request.devices),
        tensor=float(request.tensor),
        pipeline=float(request.pipeline),
        expert=float(request.expert),
        sequence_parallel=float(request.sequence_parallel),
        zero=float(zero),
        offload=float(OFFLOADS[request.offload]),
        micro_batch=float(micro),
        micro_batches=float(micro_batches),
        recompute=float(RECOMPUTE[request.recompute]),
        flash=float(request.flash),
    )
    layout = with_precision(
        base, known_precision(request.precision), known_optimizer(request.optimizer), request.device
    )
    if reason := impossible(model, layout):
        raise ProfError(f"this can't be planned: {reason}.")
    if request.global_batch and micro * replicas * micro_batches != request.global_batch:
        raise ProfError(
            f"a global batch of {request.global_batch} does not divide into {replicas} replicas with "
            f"micro-batches of {micro}: choose a multiple of {micro * replicas}."
        )
    return layout


def default_micro_batch(model: Model, global_batch: int | None, replicas: int) -> int:
    """What the script was seen to use; else 1 sequence, or 32 samples of what is not text."""
    if model.counted is not None and model.forward_flops_per_sample is None:
        return model.counted.batch if not global_batch else max(1, global_batch // replicas)
    wanted = 1 if model.shape is not None else 32
    return wanted if not global_batch else max(1, min(wanted, global_batch // replicas))


def _accumulated(model: Model, micro: int) -> int:
    """Micro-batches per step and replica, as many samples as the script or the run was seen to accumulate."""
    seen = model.counted
    return 1 if seen is None or seen.micro_batches == 1 else math.ceil(seen.batch * seen.micro_batches / micro)


def _refuse_absurd(request: Request) -> None:
    counts = {
        "--gpus": (request.devices, 10_000_000),
        "--tp": (request.tensor, 1024),
        "--pp": (request.pipeline, 4096),
        "--ep": (request.expert, 4096),
        "--micro-batch": (request.micro_batch, 1_000_000),
        "--global-batch": (request.global_batch, 100_000_000),
    }
    for flag, (value, most) in counts.items():
        if value is not None and not 1 <= value <= most:
            raise ProfError(f"{flag} {value} is absurd: it lies between 1 and {most:,}.")
    if request.units is not None and not 0 < request.units <= 1e18:
        raise ProfError(f"{request.units:g} tokens or samples to train on is absurd: the largest runs use some 1e13.")
    if request.flops is not None and not 0 < request.flops <= 1e32:
        raise ProfError(f"--flops {request.flops:g} is absurd: the largest runs use some 1e26.")
    if request.model is not None and not 1 <= request.model.parameters <= 1e16:
        raise ProfError(f"{request.model.parameters:g} parameters is absurd: the largest models have some 1e12.")
    if not 0 < request.goodput <= 1:
        raise ProfError(f"--goodput {request.goodput:g} is absurd: it is the productive share of the time, 0 to 1.")
    if request.loader_samples_per_s is not None and not request.loader_samples_per_s > 0:
        raise ProfError(f"--loader {request.loader_samples_per_s:g} is absurd: samples per second lie above 0.")


def _memory(request: Request, model: Model, layout: Layout, count: bool) -> MemoryAnswer:
    usage = memory(model, layout)
    return MemoryAnswer(
        parameters=_known(usage.parameters),
        gradients=_known(usage.gradients),
        optimizer=_known(usage.optimizer),
        activations=_known(usage.activations),
        buffers=(_known(usage.buffers_low), _known(usage.buffers_high)),
        per_device=(_known(usage.device_low), _known(usage.device_high)),
        device_parts={
            "parameters": _known(usage.device_parameters),
            "gradients": _known(usage.device_gradients),
            "optimizer": _known(usage.device_optimizer),
            "activations": _known(usage.device_activations),
        },
        host=_known(usage.host) or None,
        device_bytes=request.device.memory_bytes,
        fits=FIT_WORDS[int(fits(usage, request.device))],
        least_devices=least_devices(model, layout, request.device) if count else None,
    )


def _no_memory(request: Request) -> MemoryAnswer:
    return MemoryAnswer(
        None, None, None, None, (CONTEXT_BYTES[0], CONTEXT_BYTES[1]), (None, None), {}, None,
        request.device.memory_bytes, "unsure", None,
    )  # fmt: skip


def _time(request: Request, model: Model, layout: Layout, efficiency: Efficiency) -> TimeAnswer:
    if request.calibration is not None and request.efficiency is None:
        return _measured_time(request, request.calibration, model, layout)
    loader = request.loader_samples_per_s
    total_loader = None if loader is None else loader * float(layout.data)
    times = [
        step_time(model, layout, request.device, efficiency, share, loader_samples_per_s=total_loader)
        for share in (efficiency.value, efficiency.high, efficiency.low)
    ]
    middle, fast, slow = times
    if middle is None or fast is None or slow is None:
        return _whole_time(request, layout, efficiency, None)
    if model.shape is None and model.unit == "token":  # --params alone: what a step holds is not known
        return _whole_time(request, layout, efficiency, model)
    return _from_step(request, model, layout, efficiency, middle, (float(fast.step), float(slow.step)))


def _from_step(
    request: Request, model: Model, layout: Layout, efficiency: Efficiency, time: StepTime, around: tuple[float, float]
) -> TimeAnswer:
    step, samples = float(time.step), float(layout.samples_per_step)
    units_per_step = samples * model.tokens_per_sample
    per_unit = float(time.model_flops) / units_per_step
    units = request.units if request.units is not None else (request.flops / per_unit if request.flops else None)
    steps = None if units is None else units / units_per_step
    elapsed = [None if steps is None else steps * each / request.goodput for each in (step, *around)]
    counted = model_flops_per_unit(model, attention=True)
    peak = float(layout.devices) * float(layout.peak_flops)
    mfu = (counted or per_unit) * units_per_step / (peak * step)
    hardware = float(recompute_factor(model, layout.recompute, attention=True))
    return TimeAnswer(
        flops=request.flops or (None if units is None else per_unit * units),
        step_s=step,
        step_range_s=around,
        seconds=elapsed[0],
        seconds_range=None if elapsed[1] is None or elapsed[2] is None else (elapsed[1], elapsed[2]),
        device_hours=None if elapsed[0] is None else elapsed[0] / HOUR_S * request.devices,
        bound_by=bound_by(time),
        mfu=mfu,
        hfu=mfu * hardware,
        terms_s={
            "compute": float(time.compute),
            "memory-bandwidth": float(time.bandwidth),
            "communication": float(time.communication),
            "communication, hidden": float(time.hidden_communication),
            "data-loading": float(time.data),
            "host-overhead": float(time.host),
        },
        bubble_share=float(time.bubble_share),
        units_per_s=units_per_step / step,
        steps=steps,
    )


def _measured_time(request: Request, calibration: Calibration, model: Model, layout: Layout) -> TimeAnswer:
    """The step as the calibration predicts it; FLOPs and utilisation are known where the model was counted."""
    own = model.source.startswith("measured by")
    step = predict(
        calibration,
        samples=float(layout.micro_batch * layout.micro_batches),
        ranks=int(layout.data),
        workers=request.workers,
        model=None if own else model,
        device=request.device,
        micro_batches=float(layout.micro_batches),
        precision=request.precision,
    )
    samples = float(layout.samples_per_step)
    steps = None if request.units is None else request.units / samples
    seconds, low, high = (
        None if steps is None else steps * each / request.goodput for each in (step.step_s, step.low_s, step.high_s)
    )
    per_unit = model_flops_per_unit(model, attention=True) or None
    mfu = None if per_unit is None else per_unit * samples / (step.step_s * request.devices * float(layout.peak_flops))
    return TimeAnswer(
        flops=None if per_unit is None or request.units is None else per_unit * request.units,
        step_s=step.step_s,
        step_range_s=(step.low_s, step.high_s),
        seconds=seconds,
        seconds_range=None if low is None or high is None else (low, high),
        device_hours=None if seconds is None else seconds / HOUR_S * request.devices,
        bound_by=step.bound_by,
        mfu=mfu,
        hfu=mfu,
        terms_s={
            "compute": step.compute_s,
            "optimizer": step.optimizer_s,
            "communication": step.communication_s,
            "data-loading": step.data_s,
        },
        bubble_share=None,
        units_per_s=samples / step.step_s,
        steps=steps,
    )


def _whole_time(request: Request, layout: Layout, efficiency: Efficiency, model: Model | None) -> TimeAnswer:
    """Time from the training's FLOPs alone, where steps are not known."""
    flops, hardware, share = request.flops, 1.0, 1.0
    if model is not None:
        per_unit = model_flops_per_unit(model, attention=efficiency.counts_attention)
        if flops is None and per_unit is not None and request.units is not None:
            flops = per_unit * request.units
        if request.recompute == "full":
            hardware = 4 / 3
    rate = efficiency.value if efficiency.kind == "achieved" else efficiency.value * float(layout.peak_flops)
    share = rate / float(layout.peak_flops)
    repeated = 1.0 if efficiency.kind == "mfu" else hardware
    mfu, hfu = share / repeated, share / repeated * hardware
    if flops is None:
        return TimeAnswer(None, None, None, None, None, None, None, None, None, {}, None, None, None)
    seconds = flops * repeated / (rate * request.devices) / request.goodput
    around = (seconds * efficiency.value / efficiency.high, seconds * efficiency.value / efficiency.low)
    return TimeAnswer(
        flops,
        None,
        None,
        seconds,
        around,
        seconds / HOUR_S * request.devices,
        "compute",
        mfu,
        hfu,
        {},
        None,
        None,
        None,
    )


def _cost(request: Request, time: TimeAnswer) -> CostAnswer:
    price, power, hours = request.device.price_usd_per_hour, request.device.tdp_w, time.device_hours
    usd = None if hours is None or price is None else hours * price
    around = None
    if usd is not None and time.seconds and time.seconds_range:
        around = (usd * time.seconds_range[0] / time.seconds, usd * time.seconds_range[1] / time.seconds)
    return CostAnswer(usd, around, price, None if hours is None or power is None else hours * power / 1000)


def _known(value: object) -> float | None:
    number = float(np.asarray(value, dtype=float))
    return None if math.isnan(number) else number


def _nothing() -> Model:
    """Stands for a model of which only the FLOPs are known, when a published efficiency is looked up."""
    from profiler.planner.architecture import transformer, transformer_model

    return transformer_model(
        "FLOPs alone", transformer(layers=1, hidden=4096, heads=32, vocabulary=1, sequence=1), "--flops"
    )
