"""Memory of a training: by category for one replica, and per device after sharding.

In:  a model and a layout (or a column of layouts).
Out: `Memory`: bytes. Activations that are not known are NaN here, and null where people read them.

Peaks are those of the first pipeline stage, which holds the embedding and, under 1F1B, as many micro-batches in
flight as there are stages; the last stage's logits are compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from profiler.planner import activations
from profiler.planner.architecture import Model
from profiler.planner.catalogue import Device
from profiler.planner.layout import Layout
from profiler.planner.quantity import Quantity

# Ranges of what no formula gives: a context with its libraries, the allocator's rounding and fragmentation.
CONTEXT_BYTES = (0.4e9, 0.9e9)
COLLECTIVES_BYTES = (0.1e9, 0.8e9)
SLACK_SHARE = (0.02, 0.10)
DDP_BUCKET_BYTES = 25 * 2**20
ZERO_BUCKET_ELEMENTS = 5e8  # DeepSpeed's default reduce bucket


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, by category. The first four are of one replica before sharding, the `device_` ones after it."""

    parameters: Quantity
    gradients: Quantity
    optimizer: Quantity
    activations: Quantity
    device_parameters: Quantity
    device_gradients: Quantity
    device_optimizer: Quantity
    device_activations: Quantity
    buffers_low: Quantity
    buffers_high: Quantity
    device_low: Quantity
    device_high: Quantity
    host: Quantity  # what offloading puts into the CPU's memory, per device


def zero_bytes_per_device(
    parameters: float, stage: int, devices: int, *, weight: float = 2, gradient: float = 2, optimizer: float = 12
) -> float:
    """Model states per device under ZeRO: 4Ψ + 12Ψ/N, 2Ψ + 14Ψ/N, 16Ψ/N in the default recipe."""
    return parameters * (
        weight / (devices if stage >= 3 else 1)
        + gradient / (devices if stage >= 2 else 1)
        + optimizer / (devices if stage >= 1 else 1)
    )


def activation_bytes(model: Model, layout: Layout, *, split: bool) -> Quantity:
    """Activations for one micro-batch of a whole replica, or (`split`) of the fullest device of it."""
    if model.counted is not None:
        counted = model.counted
        whole = counted.activation_fixed_bytes + counted.activation_bytes_per_sample * layout.micro_batch
        low = whole * counted.low_precision_share + counted.low_precision_copies_bytes
        return np.where(np.asarray(layout.activation_bytes) < 4, low, whole)
    shape = model.shape
    if shape is None:
        return layout.micro_batch * np.nan
    tensor, pipeline = (layout.tensor, layout.pipeline) if split else (1.0, 1.0)
    sequence = layout.sequence_parallel if split else 0.0
    common = {
        "micro_batch": layout.micro_batch,
        "tensor": tensor,
        "sequence_parallel": sequence,
        "element_bytes": layout.activation_bytes,
    }
    layer = activations.layer_bytes(shape, recompute=layout.recompute, flash=layout.flash, **common)
    full = activations.layer_bytes(shape, recompute=activations.NONE, flash=layout.flash, **common)
    working = np.where(np.asarray(layout.recompute) == activations.FULL, full, 0.0)  # one layer at a time
    embedding = activations.embedding_bytes(shape, **common)
    logits = activations.logits_bytes(
        shape, micro_batch=layout.micro_batch, tensor=tensor, element_bytes=layout.activation_bytes
    )
    per_stage = np.ceil(shape.layers / np.asarray(pipeline, float))
    in_flight = np.minimum(pipeline, layout.micro_batches) if split else 1.0
    first = (per_stage * layer + embedding) * in_flight + working
    last = per_stage * layer + working + logits
    return np.where(np.asarray(pipeline) > 1, np.maximum(first, last), first + logits)


def stage_share(model: Model, layout: Layout, stage: int | None = None) -> Quantity:
    """The fullest device's share of the parameters by tensor, pipeline and expert splits.

    With `stage`, also by ZeRO where its stage is that or higher: over all replicas, and experts over those replicas
    that hold the same ones.
    """
    shape = model.shape
    data = 1.0 if stage is None else np.where(np.asarray(layout.zero) >= stage, layout.data, 1.0)
    if shape is None:
        return 1.0 / (layout.tensor * layout.pipeline) / data
    per_stage = np.ceil(shape.layers / np.asarray(layout.pipeline, float))
    ends = max(
        shape.embedding_parameters, shape.head_parameters + (shape.vocabulary * shape.hidden if shape.tied else 0)
    )
    outside = np.where(np.asarray(layout.pipeline) > 1, ends, shape.embedding_parameters + shape.head_parameters)
    experts = shape.expert_parameters_per_layer
    dense = per_stage * (shape.layer_parameters - experts) + outside
    sharing = np.maximum(1.0, data / layout.expert)
    return (dense / data + per_stage * experts / layout.expert / sharing) / layout.tensor / shape.parameters


def memory(model: Model, layout: Layout) -> Memory:
    """Bytes by category of that model in that layout."""
    wanted = model.trainable_parameters
    parameters = model.parameters * layout.weight_bytes
    gradients = wanted * layout.gradient_bytes
    optimizer = wanted * layout.optimizer_bytes
    share, offload = stage_share(model, layout), np.asarray(layout.offload)
    own_parameters = parameters * stage_share(model, layout, 3)
    own_gradients = gradients * stage_share(model, layout, 2)
    own_optimizer = optimizer * stage_share(model, layout, 1)
    device_parameters = np.where(offload >= 2, 0.0, own_parameters)
    device_gradients = np.where(offload >= 1, 0.0, own_gradients)
    device_optimizer = np.where(offload >= 1, 0.0, own_optimizer)
    host = own_parameters + own_gradients + own_optimizer - device_parameters - device_gradients - device_optimizer
    device_activations = activation_bytes(model, layout, split=True)
    states = device_parameters + device_gradients + device_optimizer
    low, high = _working_bytes(model, layout, share, gradients * share)
    # at the optimizer's step activations are gone, and a multi-tensor update holds a copy of its shard instead
    update = np.where(offload >= 1, 0.0, wanted * stage_share(model, layout, 1) * 4.0)
    parallel = np.asarray(layout.devices) > 1
    context = [
        base + np.where(parallel, extra, 0.0) for base, extra in zip(CONTEXT_BYTES, COLLECTIVES_BYTES, strict=True)
    ]
    device_low = context[0] + (states + device_activations + low) * (1 + SLACK_SHARE[0])
    peak = np.maximum(states + device_activations + high, states + update)
    device_high = context[1] + peak * (1 + SLACK_SHARE[1])
    known = np.where(np.isnan(device_activations), 0.0, device_activations)
    return Memory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        activations=activation_bytes(model, layout, split=False),
        device_parameters=device_parameters,
        device_gradients=device_gradients,
        device_optimizer=device_optimizer,
        device_activations=device_activations,
        buffers_low=np.where(np.isnan(device_low), context[0] + low, device_low - states - known),
        buffers_high=np.where(np.isnan(device_high), context[1] + high, device_high - states - known),
        device_low=device_low,
        device_high=device_high,
        host=host,
    )


def _working_bytes(
    model: Model, layout: Layout, share: Quantity, stage_gradients: Quantity
) -> tuple[Quantity, Quantity]:
    """Gathered layers, communication buckets, the logits' gradient, module buffers: low and high."""
    zero, parallel = np.asarray(layout.zero), np.asarray(layout.data) > 1
    layer = (model.largest_layer_parameters or model.parameters) / layout.tensor
    gathered = np.where((zero >= 3) & parallel, layer * layout.weight_bytes, 0.0)
    reduced = np.where((zero >= 3) & parallel, layer * layout.gradient_bytes, 0.0)
    bucket_low = np.where(parallel, np.minimum(DDP_BUCKET_BYTES, stage_gradients), 0.0)
    bucket_high = np.where(
        zero == 0, stage_gradients, np.minimum(ZERO_BUCKET_ELEMENTS * layout.gradient_bytes, stage_gradients)
    )
    bucket_high = np.where(parallel & (zero < 3), bucket_high, bucket_low)
    fixed = model.buffers * 4.0
    logits: Quantity = 0.0
    if model.shape is not None and model.counted is None:
        last = activations.logits_gradient_bytes(
            model.shape,
            micro_batch=layout.micro_batch,
            tensor=layout.tensor,
            element_bytes=layout.activation_bytes,
        )
        logits = np.where(np.asarray(layout.pipeline) > 1, 0.0, last)
    held: Quantity = 0.0
    if model.counted is not None:  # two gradients of the largest tensor meet in the backward pass
        counted = model.counted
        low = np.where(np.asarray(layout.activation_bytes) < 4, 0.5 if counted.ends_low else 1.0, 1.0)
        held = counted.held_bytes_per_sample * low * layout.micro_batch
        logits = 2 * counted.largest_bytes_per_sample * layout.micro_batch
    return gathered + bucket_low + fixed + held, 2 * gathered + reduced + bucket_high + fixed + held + logits


def fits(usage: Memory, device: Device) -> Quantity:
    """1 where even the high estimate fits the datasheet's size, -1 where even the low one exceeds the device, else 0.

    Where activations are not known, states alone can say no, and nothing can say yes.
    """
    states = usage.device_parameters + usage.device_gradients + usage.device_optimizer
    floor = np.where(np.isnan(usage.device_low), states + CONTEXT_BYTES[0], usage.device_low)
    return np.where(
        floor > device.reported_bytes,
        -1,
        np.where(np.nan_to_num(usage.device_high, nan=np.inf) <= device.memory_bytes, 1, 0),
    )


def least_devices(model: Model, layout: Layout, device: Device, *, most: int = 1 << 20) -> int | None:
    """The least device count on which the layout surely fits, its other degrees kept; None where none does."""
    group = int(layout.tensor * layout.pipeline)
    found = _first_that_fits(model, layout, device, _replica_counts(group, most))
    if found is None or found <= 4096:
        return None if found is None else found * group
    return group * (_first_that_fits(model, layout, device, range(found // 2 + 1, found + 1)) or found)


def _replica_counts(group: int, most: int) -> list[int]:
    largest = max(1, most // group)
    every = range(1, min(largest, 4096) + 1)
    return [*every, *(1 << power for power in range(13, 21) if 1 << power <= largest)]


def _first_that_fits(model: Model, layout: Layout, device: Device, replicas: Iterable[int]) -> int | None:
    counts = np.array(list(replicas), dtype=float)
    expert = float(np.asarray(layout.expert))
    counts = counts[counts % expert == 0]
    if not len(counts):
        return None
    many = replace(layout, devices=counts * layout.tensor * layout.pipeline)
    good = np.flatnonzero(np.broadcast_to(fits(memory(model, many), device), counts.shape) == 1)
    return int(counts[good[0]]) if len(good) else None
