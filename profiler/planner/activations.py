"""Bytes of activations that a transformer keeps for its backward pass.

The per-layer formulas are those of Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large
Transformer Models"), written over the real widths so that grouped-query attention and gated MLPs count for
what they are; with an MLP of four times the width and as many key-value heads as heads they give the paper's
34sbh + 5as²b. Sizes are per micro-batch and device; arguments may be columns.
"""

from __future__ import annotations

import numpy as np

from profiler.planner.architecture import Transformer
from profiler.planner.quantity import Quantity

NONE, SELECTIVE, FULL = 0, 1, 2
RECOMPUTE = {"none": NONE, "selective": SELECTIVE, "full": FULL}


def layer_bytes(
    shape: Transformer,
    *,
    micro_batch: Quantity,
    tensor: Quantity = 1,
    sequence_parallel: Quantity = False,
    recompute: Quantity = NONE,
    flash: Quantity = False,
    element_bytes: Quantity = 2,
) -> Quantity:
    """Bytes kept per layer. `recompute` is NONE, SELECTIVE or FULL; `tensor` is the tensor-parallel degree.

    Expert parallelism does not change the answer while routing is balanced: each device keeps as many tokens.
    """
    s, b, h = float(shape.sequence), micro_batch, float(shape.hidden)
    mask = 1.0 if shape.dropout else 0.0  # bytes of a dropout mask, per element
    # outside the tensor-parallel region: two norms' inputs, the inputs of QKV and of the MLP, two masks
    outside = s * b * h * (4 * element_bytes + 2 * mask)
    routed = float(shape.active_experts)
    mlp_width = shape.ffn * (4 if shape.gated else 2) * routed + (h * (routed - 1) if routed > 1 else 0.0)
    # queries, keys, values, the input of the output projection, the MLP's inner tensors
    inside = s * b * element_bytes * (2.0 * shape.attention_width + 2.0 * shape.kv_width + mlp_width)
    # softmax output, its dropout's output, and the mask
    core = shape.heads * s * s * b * ((2 * element_bytes + 1.0) if shape.dropout else element_bytes)
    flash_rest = shape.heads * s * b * 4.0  # log-sum-exp, fp32
    core = np.where(np.asarray(flash, bool) | (np.asarray(recompute) == SELECTIVE), flash_rest * flash, core)
    shared = np.where(np.asarray(sequence_parallel, bool), outside / tensor, outside)
    kept = shared + (inside + core) / tensor
    checkpoint = element_bytes * s * b * h / np.where(np.asarray(sequence_parallel, bool), tensor, 1)
    return np.where(np.asarray(recompute) == FULL, checkpoint, kept)


def logits_bytes(
    shape: Transformer, *, micro_batch: Quantity, tensor: Quantity = 1, element_bytes: Quantity = 2
) -> Quantity:
    """What cross entropy keeps: log-probabilities, in fp32 once; in 16 bit beside a copy in fp32, as on CUDA."""
    positions = shape.sequence * micro_batch * float(shape.vocabulary) / tensor
    return positions * np.where(np.asarray(element_bytes) < 4, element_bytes + 4.0, 4.0)


def logits_gradient_bytes(
    shape: Transformer, *, micro_batch: Quantity, tensor: Quantity = 1, element_bytes: Quantity = 2
) -> Quantity:
    """What comes on top at the start of the backward pass, at most.

    The gradient of the log-probabilities in fp32; in fp32 also that of the logits, while in 16 bit the copy is gone by
    then; and the logits themselves, where a variable of the loop still holds them.
    """
    positions = shape.sequence * micro_batch * float(shape.vocabulary) / tensor
    return positions * (np.where(np.asarray(element_bytes) < 4, 4.0, 8.0) + element_bytes)


def embedding_bytes(
    shape: Transformer, *, micro_batch: Quantity, tensor: Quantity = 1, sequence_parallel: Quantity = False,
    element_bytes: Quantity = 2,
) -> Quantity:  # fmt: skip
    """The embedding's dropout mask and the final norm's input."""
    whole = shape.sequence * micro_batch * float(shape.hidden) * (element_bytes + (1.0 if shape.dropout else 0.0))
    return whole / np.where(np.asarray(sequence_parallel, bool), tensor, 1)
