"""Time of a step: arithmetic, memory traffic, the pipeline's bubble, communication, the data loader's floor.

In:  a model, a layout (or a column of layouts), a device, and how efficient the arithmetic is.
Out: `StepTime`: seconds by term, and the step that their overlaps allow.

An end-to-end efficiency (a measured run, `--mfu`, `--achieved-tflops`) holds traffic, bubble and communication
already, so they are not added to it; an efficiency of the arithmetic alone (the catalogue's) gets them added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiler.planner.activations import FULL
from profiler.planner.architecture import Model
from profiler.planner.catalogue import Device
from profiler.planner.flops import model_flops_per_unit, recompute_factor
from profiler.planner.layout import Layout
from profiler.planner.memory import activation_bytes, stage_share
from profiler.planner.quantity import Quantity

TERMS = ("compute", "memory-bandwidth", "communication", "data-loading", "host-overhead")
LATENCY_S = 15e-6  # of one collective, per hop of its ring: the α of the α–β model
LINK_EFFICIENCY = 0.8  # of a link's datasheet rate that a ring reaches
PCIE_BYTES_PER_S = 25e9  # where a node has no faster link, and for offloaded states
LAUNCH_S = 6e-6  # of one operator, by PyTorch in eager mode
HOST_BYTES_PER_S = 25e9  # a device's share of its host's memory bandwidth


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What share of the peak is reached.

    kind: "mfu" (of model FLOPs, end to end), "achieved" (hardware FLOP/s per device by 6ND, end to end) or
    "arithmetic" (hardware FLOPs of the computing phases alone). `low` ≤ `value` ≤ `high`.
    """

    kind: str
    value: float
    low: float
    high: float
    source: str

    @property
    def counts_attention(self) -> bool:
        """Published TFLOP/s are by 6ND or 8ND; MFU counts attention."""
        return self.kind != "achieved"


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step, by term; a step is one optimizer update."""

    compute: Quantity  # the bubble included
    bandwidth: Quantity
    communication: Quantity  # exposed
    hidden_communication: Quantity
    data: Quantity
    host: Quantity  # launching the operators, which the device can't overtake; known for counted models
    step: Quantity
    bubble_share: Quantity  # of the compute term
    model_flops: Quantity  # of the whole step, over all devices
    hardware_flops: Quantity


def step_time(
    model: Model,
    layout: Layout,
    device: Device,
    efficiency: Efficiency,
    share_of_peak: float | None = None,
    *,
    loader_samples_per_s: Quantity | None = None,
) -> StepTime | None:
    """The step at `share_of_peak` (default: the efficiency's middle value); None where FLOPs are not known.

    `loader_samples_per_s` is the throughput of all loaders together.
    """
    per_unit = model_flops_per_unit(model, attention=efficiency.counts_attention)
    if per_unit is None:
        return None
    rate = efficiency.value if share_of_peak is None else share_of_peak
    samples = layout.samples_per_step
    model_flops = per_unit * model.tokens_per_sample * samples
    hardware_flops = model_flops * recompute_factor(model, layout.recompute, attention=efficiency.counts_attention)
    data = 0.0 * samples if loader_samples_per_s is None else samples / loader_samples_per_s
    zero = 0.0 * samples
    host = launch_s(model, layout, device)
    if efficiency.kind == "achieved":
        compute = hardware_flops / (layout.devices * rate)
        return StepTime(
            compute, zero, zero, zero, data, zero, np.maximum(compute, data), zero, model_flops, hardware_flops
        )
    if efficiency.kind == "mfu":
        compute = model_flops / (layout.devices * layout.peak_flops * rate)
        return StepTime(
            compute, zero, zero, zero, data, zero, np.maximum(compute, data), zero, model_flops, hardware_flops
        )
    arithmetic = hardware_flops / (layout.devices * layout.peak_flops * rate)
    bubble = (layout.pipeline - 1) / layout.micro_batches
    compute = arithmetic * (1 + bubble)
    bandwidth = traffic_s(model, layout, device)
    tensor = tensor_parallel_s(model, layout, device)
    reduction = data_parallel_s(model, layout, device)
    # gradients are reduced during the last backward pass; ZeRO-3 gathers during every pass
    window = np.where(np.asarray(layout.zero) >= 3, 0.8 * arithmetic, 0.6 * arithmetic / layout.micro_batches)
    exposed = np.maximum(0.0, reduction - window)
    communication = tensor + exposed + pipeline_s(model, layout, device) + expert_parallel_s(model, layout, device)
    step = np.maximum(np.maximum(compute + bandwidth, host) + communication, data)
    return StepTime(
        compute=compute,
        bandwidth=bandwidth,
        communication=communication,
        hidden_communication=reduction - exposed,
        data=data,
        host=host,
        step=step,
        bubble_share=bubble / (1 + bubble),
        model_flops=model_flops,
        hardware_flops=hardware_flops,
    )


def bound_by(time: StepTime) -> str:
    """The binding term of one step: the loader where it is the longer of the two, else the largest term."""
    if float(time.data) >= float(time.step):
        return "data-loading"
    terms = (float(time.compute), float(time.bandwidth), float(time.communication))
    if float(time.host) > sum(terms):
        return "host-overhead"
    return TERMS[max(range(3), key=lambda index: terms[index])]


def traffic_s(model: Model, layout: Layout, device: Device) -> Quantity:
    """The optimizer's update, which reads and writes every state once; for counted models also their activations.

    Offloaded, it runs in the host's memory, gradients and weights cross PCIe, and offloaded weights are streamed
    in for every pass.
    """
    share = stage_share(model, layout)
    elements = model.trainable_parameters * stage_share(model, layout, 1)
    saved = activation_bytes(model, layout, split=True) if model.counted is not None else 0.0
    # every saved activation is written once and read twice; in published efficiencies that is inside
    passes = np.nan_to_num(np.asarray(saved, float)) * 3 * layout.micro_batches / device.bandwidth_bytes_per_s
    moved = elements * (2 * layout.optimizer_bytes + layout.gradient_bytes + 2 * layout.weight_bytes)
    sent = elements * (layout.gradient_bytes + layout.weight_bytes) / PCIE_BYTES_PER_S
    streamed = 3 * layout.micro_batches * model.parameters * share * layout.weight_bytes / PCIE_BYTES_PER_S
    on_host = moved / HOST_BYTES_PER_S + sent + np.where(np.asarray(layout.offload) >= 2, streamed, 0.0)
    return np.where(np.asarray(layout.offload) >= 1, on_host, moved / device.bandwidth_bytes_per_s) + passes


def launch_s(model: Model, layout: Layout, device: Device) -> Quantity:
    """Time of the host to launch a step: about as many operators again for each half of the backward pass."""
    calls = model.counted.calls if model.counted is not None and device.key != "cpu" else 0.0
    return 3 * calls * LAUNCH_S * layout.micro_batches


def ring_s(payload_bytes: Quantity, members: Quantity, bytes_per_s: Quantity, *, passes: float = 2.0) -> Quantity:
    """A ring collective by the α–β model: `passes` is 2 for an all-reduce, 1 for a gather or a reduce-scatter."""
    members = np.asarray(members, float)
    steps = passes * (members - 1)
    return np.where(
        members > 1, steps * LATENCY_S + steps / members * payload_bytes / (bytes_per_s * LINK_EFFICIENCY), 0.0
    )


def tensor_parallel_s(model: Model, layout: Layout, device: Device) -> Quantity:
    """All-reduces of activations: two forward and two backward per layer, two more when forward is repeated."""
    if model.shape is None:
        return 0.0 * layout.tensor
    shape = model.shape
    payload = layout.micro_batch * shape.sequence * float(shape.hidden) * np.minimum(layout.activation_bytes, 2.0)
    per_layer = np.where(np.asarray(layout.recompute) == FULL, 6.0, 4.0)
    layers = np.ceil(shape.layers / np.asarray(layout.pipeline, float))
    rate = _rate(device, layout.tensor)
    return per_layer * layers * layout.micro_batches * ring_s(payload, layout.tensor, rate)


def data_parallel_s(model: Model, layout: Layout, device: Device) -> Quantity:
    """Reduction of gradients once a step; under ZeRO-3 also two gathers of the weights per micro-batch."""
    share = stage_share(model, layout)
    gradients = model.trainable_parameters * share * layout.gradient_bytes
    weights = model.parameters * share * layout.weight_bytes
    rate = _rate(device, layout.data, layout.tensor)
    gathers = 2 * layout.micro_batches * ring_s(weights, layout.data, rate, passes=1.0)
    scatter = layout.micro_batches * ring_s(gradients, layout.data, rate, passes=1.0)
    return np.where(np.asarray(layout.zero) >= 3, gathers + scatter, ring_s(gradients, layout.data, rate))


def pipeline_s(model: Model, layout: Layout, device: Device) -> Quantity:
    """Activations handed from stage to stage and their gradients back: the hops that nothing hides."""
    if model.shape is None:
        return 0.0 * layout.pipeline
    payload = layout.micro_batch * model.shape.sequence * float(model.shape.hidden) * 2.0 / layout.tensor
    hop = LATENCY_S + payload / (_rate(device, layout.devices, device.devices_per_node) * LINK_EFFICIENCY)
    return 2 * (layout.pipeline - 1) * hop


def expert_parallel_s(model: Model, layout: Layout, device: Device) -> Quantity:
    """Tokens sent to their experts and back: two exchanges per layer forward, two backward, two more repeated."""
    shape = model.shape
    if shape is None or shape.experts == 1:
        return 0.0 * layout.expert
    members = np.asarray(layout.expert, float)
    tokens = layout.micro_batch * shape.sequence * float(shape.active_experts)
    payload = tokens * shape.hidden * np.minimum(layout.activation_bytes, 2.0) / layout.tensor
    leaves = payload * (members - 1) / members
    rate = _rate(device, members, layout.tensor) * LINK_EFFICIENCY
    exchanges = np.where(np.asarray(layout.recompute) == FULL, 6.0, 4.0)
    layers = np.ceil(shape.layers / np.asarray(layout.pipeline, float))
    return exchanges * layers * layout.micro_batches * ((members - 1) * LATENCY_S + leaves / rate)


def _rate(device: Device, members: Quantity, stride: Quantity = 1.0) -> Quantity:
    """Bytes per second of a ring, one direction; its members are every `stride`-th device.

    Inside a node it runs on the links. Across nodes each member inside the node brings its own network port.
    """
    inside = device.link_bytes_per_s or PCIE_BYTES_PER_S
    ports = np.maximum(1.0, device.devices_per_node / np.asarray(stride, float))
    across = np.minimum(inside, device.network_bytes_per_s * ports)
    return np.where(np.asarray(members) * stride <= device.devices_per_node, inside, across)
