"""What a loader's batch is made of: looked at once, the first time one comes.

Tensors are asked for their kind and size. Of images in float, a few thousand numbers of a channel are counted: at
most 256 different ones are what bytes leave behind, so that bytes could have been copied to the device instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .session import Session

_MOST_TENSORS = 16
_DEEPEST = 3
_NUMBERS = 4096
_CHANNELS = 3
_BYTE_VALUES = 256


def look_at(session: Session, number: int, batch: Any) -> None:
    """Note what the first batch of loader `number` holds; a batch that can't be read is left alone."""
    try:
        tensors = [_describe(tensor) for tensor, _ in zip(_tensors(batch), range(_MOST_TENSORS), strict=False)]
    except Exception:  # a tensor class or a container of the user's own
        return
    session.note("batch", id=number, values={"tensors": tensors})


def _tensors(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    if type(value) is torch.Tensor:
        yield value
    elif depth < _DEEPEST and type(value) in (list, tuple):
        for part in value[:_MOST_TENSORS]:
            yield from _tensors(part, depth + 1)
    elif depth < _DEEPEST and type(value) is dict:
        for part in list(value.values())[:_MOST_TENSORS]:
            yield from _tensors(part, depth + 1)


def _describe(tensor: torch.Tensor) -> dict[str, Any]:
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "bytes": tensor.numel() * tensor.element_size(),
        "device": tensor.device.type,
        "from_bytes": _from_bytes(tensor),
    }


def _from_bytes(tensor: torch.Tensor) -> bool | None:
    """Whether the numbers of an image are as few as bytes have; None where it isn't an image, or too small."""
    image = tensor.dim() == 4 and tensor.is_floating_point() and tensor.device.type == "cpu"
    if not image or tensor.layout is not torch.strided or not len(tensor):
        return None
    first = tensor.detach()[0]
    channels = first.movedim(-1, 0) if first.shape[-1] <= _CHANNELS < first.shape[0] else first
    found = 0
    for channel in channels[:_CHANNELS]:
        numbers = channel.reshape(-1)
        if len(numbers) < _NUMBERS // 2:
            return None
        found = max(found, len(torch.unique(numbers[:: max(1, len(numbers) // _NUMBERS)])))
    return 1 < found <= _BYTE_VALUES
