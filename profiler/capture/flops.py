"""Floating-point operations of an operator, from the shapes that the profiler recorded.

In:  the operator's name, the shapes of its tensors, and its other arguments where it has been told them.
Out: multiplications and additions, each counted as one; None for operators that count as none.

As `torch.utils.flop_counter` counts: matrix products, convolutions and attention, whatever else runs. What is computed
twice (activation checkpointing, the scores in the backward of fused attention) is counted twice, since the device does
it twice. Here it costs nothing while the step runs, and nothing stands between the training and its operators.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

Shape = Sequence[int]

_CONVOLUTION = "aten::convolution"
_CONVOLUTION_BACKWARD = "aten::convolution_backward"
_ATTENTION = "aten::_scaled_dot_product_"
_FUSED = ("flash_attention", "efficient_attention", "cudnn_attention", "fused_attention_overrideable")
_MATRICES = {  # of which two arguments a product is made
    "aten::mm": (0, 1),
    "aten::_scaled_mm": (0, 1),
    "aten::addmm": (1, 2),
    "aten::_addmm_activation": (1, 2),
    "aten::bmm": (0, 1),
    "aten::baddbmm": (1, 2),
}


def counts(name: str) -> bool:
    """Whether an operator has a count: only then are its shapes worth asking for."""
    return name in _MATRICES or name in (_CONVOLUTION, _CONVOLUTION_BACKWARD) or name.startswith(_ATTENTION)


def flops_of(name: str, shapes: Sequence[Any], values: Sequence[Any]) -> int | None:
    """Operations of one call; None for an operator without a count, or whose shapes were not recorded.

    Args:
        name: as kineto gives it, e.g. "aten::mm".
        shapes: of each argument; [] for those that are no tensors.
        values: of each argument; None for those that are tensors.
    """
    try:
        if name in _MATRICES:
            first, second = (shapes[place] for place in _MATRICES[name])
            return 2 * prod(first) * int(second[-1]) if len(first) >= 2 and len(second) >= 2 else None
        if name == _CONVOLUTION:
            return _convolution(shapes[0], shapes[1], values)
        if name == _CONVOLUTION_BACKWARD:
            return _convolution_backward(shapes, values)
        if name.startswith(_ATTENTION):
            return _attention(name.removeprefix(_ATTENTION), shapes)
    except (IndexError, TypeError, ValueError):
        return None
    return None


def _convolution(inputs: Shape, weight: Shape, values: Sequence[Any]) -> int | None:
    stride, padding, dilation, transposed = values[3:7]
    if len(inputs) < 3 or len(weight) < 3 or transposed is None:
        return None
    kernel = weight[2:]
    if transposed:  # each input element meets each weight of its channel
        return 2 * inputs[0] * prod(inputs[2:]) * prod(weight)
    places = [
        (size + 2 * _at(padding, axis) - _at(dilation, axis) * (kernel[axis] - 1) - 1) // _at(stride, axis) + 1
        for axis, size in enumerate(inputs[2:])
    ]
    return 2 * int(inputs[0]) * prod(places) * prod(weight)


def _at(values: Sequence[int], axis: int) -> int:
    return values[axis] if len(values) > 1 else values[0]


def _convolution_backward(shapes: Sequence[Any], values: Sequence[Any]) -> int | None:
    gradient, inputs, weight = shapes[:3]
    transposed, wanted = values[7], values[10]
    if len(gradient) < 3 or transposed is None or wanted is None:
        return None
    places = prod(inputs[2:] if transposed else gradient[2:])
    once: int = 2 * int(gradient[0]) * places * prod(weight)
    return once * (bool(wanted[0]) + bool(wanted[1]))


def _attention(kind: str, shapes: Sequence[Any]) -> int | None:
    """Forward: scores and values. Backward: scores again, and the gradients of values, scores, queries and keys."""
    if not kind.startswith(_FUSED):
        return None
    backward = "_backward" in kind
    query, key, value = shapes[1:4] if backward else shapes[:3]
    pairs: int = 2 * prod(query[:-1]) * int(key[-2])
    if backward:
        return pairs * (3 * int(query[-1]) + 2 * int(value[-1]))
    return pairs * (int(query[-1]) + int(value[-1]))
