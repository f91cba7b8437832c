"""What a plan assumes, said in sentences: which formulas, what they include, where the figures come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.planner.architecture import Model
from profiler.planner.calibration import Calibration
from profiler.planner.layout import Layout, known_strategy
from profiler.planner.quantity import bytes_text, digits
from profiler.planner.states import known_optimizer, known_precision
from profiler.planner.timing import Efficiency

if TYPE_CHECKING:
    from profiler.planner.plan import Request


def assumptions(request: Request, layout: Layout | None, efficiency: Efficiency) -> tuple[str, ...]:
    """One sentence each, the weightiest first."""
    said: list[str] = []
    model = request.model
    if model is not None and layout is not None:
        said += model.notes
        said += _memory(request, layout)
    measured = request.calibration is not None and request.efficiency is None
    if measured:
        assert request.calibration is not None
        said += _measured(request.calibration)
    else:
        said += _flops(request, efficiency)
        said.append(f"Efficiency: {efficiency_text(efficiency)} ({efficiency.source}).")
    if measured:
        pass
    elif layout is not None and efficiency.kind != "arithmetic" and int(layout.devices) > 1:
        said.append("That efficiency is end to end: communication and pipeline bubbles are inside it, not added to it.")
    elif layout is not None and int(layout.devices) > 1:
        said.append(
            "Communication: rings by an α–β model at 80 % of the links' datasheet rate; gradients are reduced "
            "behind 60 % of the last backward pass, FSDP's gathers behind 80 % of the arithmetic."
        )
    if request.goodput == 1.0:
        said.append(
            "Goodput 1: no time is lost to failures, restarts or evaluation; pass --goodput for a real cluster."
        )
    if request.loader_samples_per_s is None and not measured:
        said.append("Data loading is assumed to keep up: nothing was measured. Use --from RUN, or pass --loader.")
    said.append(_price(request))
    return tuple(said)


def efficiency_text(efficiency: Efficiency) -> str:
    """The efficiency in its own unit."""
    if efficiency.kind == "achieved":
        return f"{digits(efficiency.value / 1e12)} TFLOP/s achieved per device"
    kind = "MFU" if efficiency.kind == "mfu" else "of the dense peak in the computing phases"
    middle = f"{100 * efficiency.value:.1f} % {kind}"
    if efficiency.low == efficiency.high:
        return middle
    return f"{middle}, from {100 * efficiency.low:.1f} to {100 * efficiency.high:.1f} %"


def _measured(calibration: Calibration) -> list[str]:
    run = calibration.base
    said = [
        f"Time is scaled from {run.name}: {digits(run.step_ms)} ms a step at {run.batch} samples"
        f"{f' in {run.micro_batches:g} micro-batches' if run.micro_batches > 1 else ''} on {run.device}, in "
        f"{run.precision} as its settings show; forward, "
        "backward and copies grow with the batch, the optimizer with the parameters, the loader with the samples."
    ]
    if len(calibration.runs) == 1:
        said.append(
            "One run can't show what of the work does not grow with the batch: pass --from twice, at two batch sizes."
        )
    if run.batch_ms is None:
        said.append("The loader's workers were not measured: data loading is scaled from the wait alone.")
    return said


def _memory(request: Request, layout: Layout) -> list[str]:
    model = request.model
    assert model is not None
    precision, optimizer = known_precision(request.precision), known_optimizer(request.optimizer)
    per_parameter = layout.weight_bytes + layout.gradient_bytes + layout.optimizer_bytes
    said = [
        f"GB are 1e9 bytes. {request.precision}: {precision.meaning}. {request.optimizer}: {optimizer.meaning}. "
        f"Together {digits(float(per_parameter))} bytes per trainable parameter: {layout.weight_bytes:g} weights + "
        f"{layout.gradient_bytes:g} gradients + {digits(float(layout.optimizer_bytes))} optimizer"
        f"{' with master weights' if precision.master_bytes else ''}.",
        f"Categories are of one replica before sharding; per device they are sharded by {request.strategy} "
        f"(ZeRO stage {known_strategy(request.strategy)}) over {int(layout.data)} replicas.",
    ]
    batch = f"micro-batch of {int(layout.micro_batch)}"
    measured = model.source.startswith("measured by")
    if measured and model.counted is not None:
        said.append(f"Activations are what the run kept for backward, scaled by the samples of a {batch}.")
    elif model.counted is not None:
        said.append(f"Activations were counted on the meta device at two batch sizes; {batch}.")
    elif model.shape is not None:
        attention = "flash attention keeps no score matrices" if layout.flash else "score matrices are kept (no flash)"
        said.append(
            f"Activations by Korthikanti et al. 2022 for one {batch}, {model.shape.sequence} tokens long, "
            "recomputation "
            f"{request.recompute}; {attention}; logits and their fp32 copy are included."
        )
    else:
        said.append("Activations are not known: pass the training script, or a model whose architecture is known.")
    if request.global_batch is None:
        said.append(
            f"Global batch {int(layout.samples_per_step)}: {int(layout.data)} replicas x {int(layout.micro_batch)} x "
            f"{int(layout.micro_batches)} accumulated"
            f"{_batch_source(model)}."
        )
    device = request.device
    if device.reported_bytes > device.memory_bytes:
        said.append(
            f"It fits surely below the datasheet's {bytes_text(device.memory_bytes)}, and surely not above the "
            f"{bytes_text(device.reported_bytes)} that the driver reports."
        )
    return said


def _batch_source(model: Model) -> str:
    if model.source.startswith("measured by"):
        return " (as the run had it)"
    return " (from the published batch)" if model.global_batch else ""


def _flops(request: Request, efficiency: Efficiency) -> list[str]:
    model = request.model
    if request.flops is not None:
        return [f"FLOPs: {request.flops:.3g}, as passed."]
    if model is None:
        return []
    if model.counted is not None and model.forward_flops_per_sample is None:
        return ["FLOPs: counted by torch.utils.flop_counter on the meta device; element-wise work is not counted."]
    if model.forward_flops_per_sample is not None:
        return ["FLOPs: three times the published forward pass."]
    if model.flop_parameters is None:
        return ["FLOPs are not known for this model, so neither is the time: pass --flops."]
    frozen = model.trainable_parameters < model.parameters
    formula = "4N + 2N(trainable)" if frozen else "6N"
    if efficiency.counts_attention and model.shape is not None:
        return [
            f"FLOPs per token: {formula} + 12·L·H·Q·T, N = {model.flop_parameters:.4g}; attention counted, "
            "causality not "
            f"halved; recomputation is not in the model FLOPs."
        ]
    return [
        f"FLOPs per token: {formula}, N = {model.flop_parameters:.4g}, attention not counted, as published "
        "TFLOP/s have it; "
        "with full recomputation the device does 8N."
    ]


def _price(request: Request) -> str:
    device = request.device
    price = (
        "Cost is not known: pass --price."
        if device.price_usd_per_hour is None
        else f"Price: ${device.price_usd_per_hour:g} per device-hour ({device.price_source})."
    )
    if device.tdp_w is None:
        return f"{price} Energy is not known for this device."
    return f"{price} Energy: {device.tdp_w:g} W per device all the time; hosts and cooling are not counted."
