"""What the field's own estimators say, by their documented formulas, to compare the planner's memory with.

They count model states alone: no activations, no context, no fragmentation. Bytes; both tools print GiB.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST_FACTOR = 1.5  # DeepSpeed's allowance on CPU memory


@dataclass(frozen=True, slots=True)
class DeepSpeedNeeds:
    """Memory per GPU and per node's CPU, in bytes."""

    gpu_bytes: float
    cpu_bytes: float


def deepspeed_zero2(parameters: float, gpus_per_node: int, nodes: int = 1, *, offload: bool) -> DeepSpeedNeeds:
    """DeepSpeed's ZeRO-2 estimate of model states."""
    gpus = gpus_per_node * nodes
    whole_on_each = 4 * parameters * gpus_per_node
    if offload:
        return DeepSpeedNeeds(2 * parameters, max(whole_on_each, 16 * parameters / nodes) * HOST_FACTOR)
    return DeepSpeedNeeds(4 * parameters + 16 * parameters / gpus, whole_on_each * HOST_FACTOR)


def deepspeed_zero3(
    parameters: float,
    largest_layer: float,
    gpus_per_node: int,
    nodes: int = 1,
    *,
    offload_optimizer: bool,
    offload_parameters: bool,
    zero_init: bool,
) -> DeepSpeedNeeds:
    """DeepSpeed's ZeRO-3 estimate of model states; `zero_init` builds the model already sharded."""
    gpus = gpus_per_node * nodes
    gathered = 4 * largest_layer
    if not offload_optimizer:
        gpu, host = gathered + 18 * parameters / gpus, 4 * largest_layer * gpus_per_node
    elif offload_parameters:
        gpu, host = gathered, 18 * parameters / nodes
    else:
        gpu, host = gathered + 2 * parameters / gpus, 16 * parameters / nodes
    if not zero_init:
        whole_on_each = 4 * parameters * gpus_per_node
        host = max(whole_on_each, host) if offload_optimizer else whole_on_each
    return DeepSpeedNeeds(gpu, host * HOST_FACTOR)


def accelerate_bytes(parameters: float, buffers: float = 0.0) -> tuple[float, float]:
    """accelerate's estimate-memory in fp32: the model, and training it with Adam as four times that."""
    model = 4 * (parameters + buffers)
    return model, 4 * model
