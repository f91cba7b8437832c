"""FLOPs of training, by the published formulas; a multiply-add counts as two.

Model FLOPs are what the arithmetic of the model asks for; hardware FLOPs add what recomputation repeats.
Attention counts the full square of the sequence: causality is not halved, as in PaLM's and Megatron's formulas.
"""

from __future__ import annotations

import numpy as np

from profiler.planner.activations import FULL, SELECTIVE
from profiler.planner.architecture import Model, Transformer
from profiler.planner.quantity import Quantity


def parameter_flops_per_token(parameters: float, trainable: float | None = None) -> float:
    """6N: 2N forward, 2N for the gradients of activations, 2N for those of the trainable weights."""
    return 4.0 * parameters + 2.0 * (parameters if trainable is None else trainable)


def attention_flops_per_token(shape: Transformer) -> float:
    """12·L·H·Q·T: scores and their product with the values, forward and twice backward (PaLM, appendix B)."""
    return 12.0 * shape.layers * shape.attention_width * shape.sequence


def megatron_flops_per_step(shape: Transformer, batch: float, *, recompute: bool = True) -> float:
    """96·B·s·l·h²(1 + s/6h + V/16lh) with full recomputation, 72·…(1 + s/6h + V/12lh) without.

    Narayanan et al. 2021, equation 3; Korthikanti et al. 2022, equation 7.
    """
    layers, h, s, v = float(shape.layers), float(shape.hidden), float(shape.sequence), float(shape.vocabulary)
    if recompute:
        return 96 * batch * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    return 72 * batch * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))


def selective_flops_per_step(shape: Transformer, batch: float) -> float:
    """72·B·s·l·h²(1 + s/3h + V/12lh): the attention core is computed twice (Korthikanti et al. 2022)."""
    layers, h, s, v = float(shape.layers), float(shape.hidden), float(shape.sequence), float(shape.vocabulary)
    return 72 * batch * s * layers * h**2 * (1 + s / (3 * h) + v / (12 * layers * h))


def megatron_days(parameters: float, tokens: float, devices: float, achieved_flops: float) -> float:
    """8·T·P/(n·X) in days: the end-to-end estimate with full recomputation (Narayanan et al. 2021, equation 4)."""
    return 8 * tokens * parameters / (devices * achieved_flops) / 86400


def model_flops_per_unit(model: Model, *, attention: bool) -> float | None:
    """Model FLOPs per token (or per sample, where that is the model's unit); None where nothing is known.

    `attention=False` is the field's 6ND; measured and published counts hold their attention already.
    """
    trained_share = model.trainable_parameters / model.parameters
    if model.counted is not None:
        counted = model.counted
        per_sample = counted.flops_per_sample + counted.flops_fixed / max(counted.batch, 1)
        return per_sample * (2 + trained_share)
    if model.forward_flops_per_sample is not None:
        return model.forward_flops_per_sample * (2 + trained_share)
    if model.flop_parameters is None:
        return None
    tokens = model.shape.sequence if model.shape and model.unit == "sample" else 1
    flops = parameter_flops_per_token(model.flop_parameters, model.flop_parameters * min(1.0, trained_share))
    if attention and model.shape is not None:
        flops += attention_flops_per_token(model.shape)
    return flops * tokens


def recompute_factor(model: Model, recompute: Quantity, *, attention: bool) -> Quantity:
    """Hardware FLOPs over model FLOPs: 4/3 when everything is computed twice forward, less for attention only."""
    core = 0.0
    per_unit = model_flops_per_unit(model, attention=attention)
    if model.shape is not None and attention and per_unit and model.counted is None:
        tokens = model.shape.sequence if model.unit == "sample" else 1
        core = attention_flops_per_token(model.shape) * tokens / 3 / per_unit
    trained_share = model.trainable_parameters / model.parameters
    return np.where(
        np.asarray(recompute) == FULL,
        1 + 1 / (2 + trained_share),
        np.where(np.asarray(recompute) == SELECTIVE, 1 + core, 1.0),
    )
