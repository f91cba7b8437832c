"""What operators were given, where a trace was recorded with `record_shapes`.

In:  the arguments' dimensions, types and values, as text of the trace.
Out: `Given`s, numbered: many calls share one. Kept for the operators whose work can be told by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

MOST_GIVEN = 1 << 16  # different ones; those beyond it are not told
_LONGEST = 4096  # bytes of text of one field: lists of thousands of tensors tell nothing here

MATRICES = frozenset(
    {"aten::mm", "aten::_scaled_mm", "aten::addmm", "aten::_addmm_activation", "aten::bmm", "aten::baddbmm"}
)
CONVOLUTIONS = frozenset({"aten::convolution", "aten::convolution_backward"})
ATTENTION = "aten::_scaled_dot_product_"
_MOVING = (  # read their arguments once and write one result of the size of the largest
    "abs add addcdiv addcmul clamp clamp_min cos div exp gelu gelu_backward hardtanh leaky_relu lerp log mul "
    "masked_fill native_dropout neg pow relu rsqrt sigmoid sigmoid_backward silu silu_backward sin sqrt sub tanh "
    "tanh_backward threshold_backward where _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data "
    "native_layer_norm native_layer_norm_backward native_group_norm native_batch_norm native_batch_norm_backward "
    "cudnn_batch_norm cudnn_batch_norm_backward miopen_batch_norm miopen_batch_norm_backward"
)
MOVING = frozenset(f"aten::{name}{ending}" for name in _MOVING.split() for ending in ("", "_"))
READING = frozenset({"aten::sum", "aten::mean"})  # write next to nothing
COPYING = frozenset({"aten::copy_"})  # write their first argument
_TOLD = MATRICES | CONVOLUTIONS | MOVING | READING | COPYING
Text = bytes | msgspec.Raw
_BETWEEN = b"\0"  # stands in no JSON
_anything = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments of one call."""

    shapes: tuple[Any, ...]  # of each argument: a list of numbers, [] for those that are no tensors
    types: tuple[str, ...]  # "float", "c10::BFloat16", …; "Scalar" or "" for those that are no tensors
    values: tuple[Any, ...]  # None for those that are tensors, or not said


SHAPES, ALSO_VALUES = 1, 2


def told_by(name: str) -> int:
    """What tells an operator's work, by its name: nothing (0), its arguments' shapes, or also their values.

    Those of convolutions hold their strides; other operators' scalars differ from call to call.
    """
    if name in CONVOLUTIONS:
        return ALSO_VALUES
    return SHAPES if name in _TOLD or name.startswith(ATTENTION) else 0


def as_given(dims: Text, types: Text, values: Text) -> bytes:
    """What an operator was given, as one piece of text."""
    return _BETWEEN.join((dims, types, values))


class Shapes(dict[bytes, int]):
    """Numbers of what operators were given; -1 where that was not recorded."""

    def __missing__(self, given: bytes) -> int:
        if given.startswith(_BETWEEN) or len(self) >= MOST_GIVEN or max(map(len, given.split(_BETWEEN))) > _LONGEST:
            return -1
        number = self[given] = len(self)
        return number

    def given(self) -> tuple[Given, ...]:
        """All of them, by their numbers."""
        fields = (given.split(_BETWEEN) for given in self)
        return tuple(Given(_list(dims), _words(types), _values(values)) for dims, types, values in fields)


def _list(text: bytes) -> tuple[Any, ...]:
    try:
        value = _anything.decode(text) if text else []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(value) if isinstance(value, list) else ()


def _words(text: bytes) -> tuple[str, ...]:
    return tuple(word if isinstance(word, str) else "" for word in _list(text))


def _values(text: bytes) -> tuple[Any, ...]:
    """Kineto writes values as text: "[1, 1]", "False", "" for a tensor."""
    found = []
    for word in _list(text):
        try:
            found.append(_anything.decode(word.replace("True", "true").replace("False", "false").encode()))
        except (AttributeError, msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            found.append(None)
    return tuple(found)
