"""What a step's outputs still hold later: when the next forward begins, and after the next step's end.

A name that the loop binds anew only after the next forward (`logits`, `loss`) keeps its tensor through it. What
outlives even that is in a list, or in a reference cycle that waits for the garbage collector. Weak references tell;
they keep nothing alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from threading import get_ident
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from .session import Session

LEAST_BYTES = 2**20  # of one tensor
_MOST_TENSORS = 64


class KeptOutputs:
    """Outputs of one step's root modules, watched until the end of the next step."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread = get_ident()
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}  # by storage
        self._held_bytes: int | None = None  # when the next forward began
        self._handle: Any = None

    def add(self, output: Any) -> None:
        """A root module returned this."""
        for tensor in tensors_in(output):
            if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided:
                continue
            storage = tensor.untyped_storage()
            if storage.nbytes() >= LEAST_BYTES and len(self._made) < _MOST_TENSORS:
                self._made[int(storage._cdata)] = (weakref.ref(tensor), storage.nbytes())

    def watch(self) -> bool:
        """The step has ended: look again when the next forward begins. Whether there is anything to look at."""
        if self._made:
            self._handle = torch_module.register_module_forward_pre_hook(self._next_forward)
        return bool(self._made)

    def _next_forward(self, module: torch.nn.Module, args: Any) -> None:
        if self._held_bytes is None and get_ident() == self._thread and self._session.active:
            self._held_bytes = self._alive_bytes()

    def report(self) -> None:
        """The next step has ended, too: note what was seen, and stop."""
        self.stop()
        if self._held_bytes is not None:
            self._session.note(
                "outputs",
                made_bytes=sum(size for _, size in self._made.values()),
                held_bytes=self._held_bytes,
                outlived_bytes=self._alive_bytes(),
            )

    def stop(self) -> None:
        """Take the hook away."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _alive_bytes(self) -> int:
        return sum(size for made, size in self._made.values() if made() is not None)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value, however it nests them in dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)
