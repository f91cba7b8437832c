"""Arithmetic and bytes of an operator's call, by what it was given.

In:  the operator's name, and shapes, types and values of its arguments.
Out: `CallWork`. Operations are counted as in `capture/flops.py`. Bytes are the least that must be moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from profiler.capture.flops import flops_of
from profiler.record.trace.shapes import ATTENTION, CONVOLUTIONS, COPYING, MATRICES, MOVING, READING, Given

_BYTES = {
    "double": 8, "float": 4, "c10::Half": 2, "c10::BFloat16": 2, "long int": 8, "long": 8, "int": 4, "short": 2,
    "short int": 2, "signed char": 1, "unsigned char": 1, "bool": 1, "c10::Float8_e4m3fn": 1, "c10::Float8_e5m2": 1,
    "c10::complex<float>": 8, "c10::complex<double>": 16, "long long": 8,
}  # fmt: skip
_FORMATS = {
    "float": "fp32", "double": "fp64", "c10::Half": "fp16", "c10::BFloat16": "bf16", "c10::Float8_e4m3fn": "fp8",
    "c10::Float8_e5m2": "fp8",
}  # fmt: skip
_MOST = 10**21  # of operations or bytes of one call, that can be believed
_DROPOUT = "aten::native_dropout"


@dataclass(frozen=True, slots=True)
class CallWork:
    """The work of one call; None where what was recorded does not tell it."""

    flops: int | None
    bytes: int | None
    number_format: str | None


def work_of(name: str, given: Given) -> CallWork:
    """The work of a call of an operator that `record/trace/shapes.py` names."""
    shapes = [shape if _is_shape(shape) else [] for shape in given.shapes]
    flops = flops_of(name, shapes, given.values)
    main = _first_factor(name)
    types = [*given.types, *[""] * (len(shapes) - len(given.types))]
    number_format = _FORMATS.get(types[main]) if main < len(types) else None
    try:
        moved = _bytes(name, shapes, types, given.values)
    except (IndexError, TypeError, ValueError):
        moved = None
    if flops is not None and flops > _MOST:
        flops = None
    untold = flops is None and counts_arithmetic(name)
    return CallWork(flops, None if untold or (moved is not None and moved > _MOST) else moved, number_format)


def counts_arithmetic(name: str) -> bool:
    """Whether an operator's arithmetic is what it is there for."""
    return name in MATRICES or name in CONVOLUTIONS or name.startswith(ATTENTION)


def _first_factor(name: str) -> int:
    """Which argument is the first factor of a product; a tensor to be added comes before it."""
    return int(name in ("aten::addmm", "aten::_addmm_activation", "aten::baddbmm"))


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(size, int) and size >= 0 for size in value)


def _bytes(name: str, shapes: list[list[int]], types: list[str], values: tuple[Any, ...]) -> int | None:
    sizes = [_size(shape, word) for shape, word in zip(shapes, types, strict=True)]
    tensors = [size for size in sizes if size is not None]
    if not tensors or any(shape and size is None for shape, size in zip(shapes, sizes, strict=True)):
        return None
    if name in MATRICES:
        return _product(name, shapes, types)
    if name == "aten::convolution":
        places = _places(shapes, values)
        return None if places is None else sum(tensors) + places * _BYTES[types[0]]
    if name == "aten::convolution_backward":
        wanted = values[10] if len(values) > 10 and isinstance(values[10], list) else None
        if wanted is None:
            return None
        gradient, inputs, weight = (size or 0 for size in sizes[:3])
        return gradient + inputs * (1 + bool(wanted[0])) + weight * (1 + bool(wanted[1]))
    if name.startswith(ATTENTION):
        return sum(tensors) + _attention(name, shapes, sizes)
    if name in READING or name in COPYING:
        return sum(tensors)
    if name in MOVING:
        mask = prod(shapes[0]) if name == _DROPOUT else 0
        return sum(tensors) + max(tensors) + mask
    return None


def _size(shape: list[int], word: str) -> int | None:
    """Bytes of a tensor; None for what is none, or of a type that is not known."""
    width = _BYTES.get(word)
    return None if width is None else prod(shape) * width


def _product(name: str, shapes: list[list[int]], types: list[str]) -> int:
    first = _first_factor(name)
    second = first + 1
    left, right = shapes[first], shapes[second]
    added = prod(shapes[0]) if first else 0
    result = prod(left[:-1]) * right[-1]
    width = _BYTES[types[first]]
    return (prod(left) + prod(right) + added) * width + result * (2 if name == "aten::_scaled_mm" else width)


def _places(shapes: list[list[int]], values: tuple[Any, ...]) -> int | None:
    """Elements of a convolution's result, from the operations that make them; a transposed one's are not told so."""
    flops = flops_of("aten::convolution", shapes, values)
    each = 2 * prod(shapes[1][1:])
    return flops // each if flops is not None and each and values[6] is False else None


def _attention(name: str, shapes: list[list[int]], sizes: list[int | None]) -> int:
    """What attention writes: a result of the shape of the queries, or gradients of queries, keys and values."""
    if "_backward" in name:
        return sum(size or 0 for size in sizes[1:4])
    query, value = shapes[0], shapes[2]
    width = (sizes[0] or 0) // max(prod(query), 1)
    return int(prod(query[:-1])) * value[-1] * width
