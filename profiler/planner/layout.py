"""How a training is laid out over devices: parallel degrees, sharding, batches, number formats.

A `Layout` holds floats for one plan, or columns of equal length for the search's candidates.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace

from profiler.errors import ProfError
from profiler.planner.activations import FULL, NONE
from profiler.planner.architecture import Model
from profiler.planner.catalogue import Device
from profiler.planner.quantity import Quantity, column
from profiler.planner.states import Optimizer, Precision, optimizer_bytes

STRATEGIES = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3}
OFFLOADS = {"none": 0, "optimizer": 1, "all": 2}


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to train, or a column of ways."""

    devices: Quantity
    tensor: Quantity = 1.0
    pipeline: Quantity = 1.0
    expert: Quantity = 1.0
    sequence_parallel: Quantity = 0.0
    zero: Quantity = 0.0  # ZeRO stage; FSDP is 3
    offload: Quantity = 0.0  # see OFFLOADS
    micro_batch: Quantity = 1.0  # samples
    micro_batches: Quantity = 1.0  # per step and replica: gradient accumulation
    recompute: Quantity = float(NONE)
    flash: Quantity = 1.0
    weight_bytes: Quantity = 2.0  # per element, as are the next three
    gradient_bytes: Quantity = 2.0
    optimizer_bytes: Quantity = 12.0
    activation_bytes: Quantity = 2.0
    peak_flops: Quantity = float("nan")

    @property
    def data(self) -> Quantity:
        """Replicas."""
        return self.devices / (self.tensor * self.pipeline)

    @property
    def samples_per_step(self) -> Quantity:
        """The global batch."""
        return self.micro_batch * self.micro_batches * self.data

    def columns(self, rows: int) -> Layout:
        """Every field as a column of that many rows."""
        return replace(self, **{field.name: column(getattr(self, field.name), rows) for field in fields(self)})

    def row(self, index: int) -> Layout:
        """One candidate of many."""
        return replace(self, **{field.name: float(getattr(self, field.name)[index]) for field in fields(self)})


def known_strategy(name: str) -> int:
    """The ZeRO stage of a strategy's name. Raises ProfError with the nearest names."""
    if name.lower() in STRATEGIES:
        return STRATEGIES[name.lower()]
    near = difflib.get_close_matches(name.lower(), STRATEGIES, n=3, cutoff=0.4) or list(STRATEGIES)
    raise ProfError(f"there is no strategy called '{name}': the nearest are {', '.join(near)}.")


def peak_flops(device: Device, precision: Precision) -> float:
    """The dense peak that a recipe can reach on a device. Raises ProfError where the device has no such format."""
    if precision.peak in device.peak_flops:
        return device.peak_flops[precision.peak]
    usable = sorted(device.peak_flops)
    raise ProfError(
        f"{device.name} has no {precision.peak} arithmetic in the catalogue: choose a --precision that uses "
        f"{' or '.join(usable)}."
    )


def with_precision(layout: Layout, precision: Precision, optimizer: Optimizer, device: Device) -> Layout:
    """The layout in a precision recipe."""
    return replace(
        layout,
        weight_bytes=precision.weight_bytes,
        gradient_bytes=precision.gradient_bytes,
        optimizer_bytes=optimizer_bytes(optimizer, precision),
        activation_bytes=precision.activation_bytes,
        peak_flops=peak_flops(device, precision),
    )


def impossible(model: Model, layout: Layout) -> str | None:
    """Why one layout can't be, in one clause; None where it can."""
    tensor, pipeline, expert = int(layout.tensor), int(layout.pipeline), int(layout.expert)
    devices, shape = int(layout.devices), model.shape
    if shape is None:
        if tensor > 1 or pipeline > 1 or expert > 1:
            return f"the layers of {model.name} are not known, so it can't be split by tensor, stage or expert"
        if layout.recompute:
            return f"recomputation is planned for transformers of known shape, and {model.name} is none"
    else:
        if shape.heads % tensor:
            return f"a tensor degree of {tensor} does not divide the {shape.heads} heads of {model.name}"
        if shape.ffn % tensor:
            return f"a tensor degree of {tensor} does not divide the MLP's width of {shape.ffn}"
        if pipeline > shape.layers:
            return f"{pipeline} pipeline stages are more than the {shape.layers} layers of {model.name}"
        if shape.experts % expert:
            return f"an expert degree of {expert} does not divide the {shape.experts} experts of {model.name}"
    if devices % (tensor * pipeline):
        return f"{devices} devices do not divide by tensor x pipeline degree = {tensor * pipeline}"
    if int(layout.data) % expert:
        return f"an expert degree of {expert} does not divide the {int(layout.data)} replicas"
    if layout.sequence_parallel and tensor == 1:
        return "sequence parallelism shares the tensor-parallel group: it needs a tensor degree above 1"
    if layout.recompute == FULL and shape is None:
        return "full recomputation needs known layers"
    if layout.zero >= 2 and pipeline > 1:
        return f"ZeRO stage {int(layout.zero)} is not combined with pipeline stages: their gradients accumulate whole"
    return None
