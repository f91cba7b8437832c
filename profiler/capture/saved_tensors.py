"""Account for what autograd keeps for backward, while it keeps it.

A pair of saved-tensor hooks wraps each tensor that autograd saves in a `Saved`, which dies when autograd lets
go of it. Storages are counted once, however many tensors share them; parameters and buffers are not counted.
"""

from __future__ import annotations

from typing import Any

import torch

OUTSIDE = "(outside any module)"


class Ledger:
    """Bytes that are kept for backward: now, at most, and by the module that saved them first."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.peak_bytes_by_module: dict[str, int] = {}
        self.not_activations: set[int] = set()  # storages of parameters and buffers
        self.modules: list[tuple[int, str]] = []  # that run now, outermost first: id and label
        self._live_bytes = 0
        self._live_bytes_by_module: dict[str, int] = {}
        self._storages: dict[int, tuple[int, str, list[int]]] = {}  # bytes, module, number of holders

    def keep(self, tensor: torch.Tensor) -> int | None:
        """A tensor was saved; the key to release it by, None where it does not count."""
        storage = tensor.untyped_storage()
        key = int(storage._cdata)
        if key in self.not_activations:
            return None
        known = self._storages.get(key)
        if known is not None:
            known[2][0] += 1
            return key
        size_bytes = storage.nbytes()
        module = self.modules[-1][1] if self.modules else OUTSIDE
        self._storages[key] = (size_bytes, module, [1])
        self._live_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        here = self._live_bytes_by_module.get(module, 0) + size_bytes
        self._live_bytes_by_module[module] = here
        self.peak_bytes_by_module[module] = max(here, self.peak_bytes_by_module.get(module, 0))
        return key

    def release(self, key: int) -> None:
        """A holder of this storage has died."""
        size_bytes, module, holders = self._storages[key]
        holders[0] -= 1
        if holders[0] == 0:
            del self._storages[key]
            self._live_bytes -= size_bytes
            self._live_bytes_by_module[module] -= size_bytes


class Saved:
    """A saved tensor, without its place in the graph: with it, the graph would hold itself alive."""

    __slots__ = ("_key", "_ledger", "_version", "tensor")

    def __init__(self, tensor: torch.Tensor, ledger: Ledger | None) -> None:
        self._key: int | None = None
        self._ledger = ledger
        self.tensor = tensor.detach()  # shares storage and version counter
        self._version = self.tensor._version
        if ledger is not None:
            try:
                self._key = ledger.keep(tensor)
            except (RuntimeError, NotImplementedError):
                pass  # a kind of tensor that has no storage

    def unpack(self) -> torch.Tensor:
        """The tensor. Raises RuntimeError where autograd would: it was changed in place since."""
        if self.tensor._version != self._version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"[{self.tensor.type()} {list(self.tensor.shape)}] is at version {self.tensor._version}; "
                f"expected version {self._version} instead."
            )
        return self.tensor

    def __del__(self) -> None:
        if self._key is not None and self._ledger is not None:
            self._ledger.release(self._key)


class SavedTensorHooks:
    """Our pair on the stack of default hooks of the thread that made it.

    It is pushed only where that stack is empty, and popped only while it is on top, so that nobody else's pair
    is ever taken for ours. Until it can be popped it lets tensors through uncounted.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger: Ledger | None = ledger
        self._pushed = False
        self.interrupted = False  # somebody forbade saved-tensor hooks: ours gave way

        def pack(tensor: torch.Tensor) -> Saved:
            return Saved(tensor, self._ledger)

        self._pack = pack
        self._disable: Any = None

    def push(self) -> None:
        """Begin to count. `torch.func` refuses to run under saved-tensor hooks: ours give way to it."""
        autograd: Any = torch._C._autograd
        disable = autograd._saved_tensors_hooks_disable

        def give_way(*args: Any, **kwargs: Any) -> Any:
            if self._pushed and self.pop():
                self.interrupted = True
            return disable(*args, **kwargs)

        autograd._push_saved_tensors_default_hooks(self._pack, Saved.unpack)
        self._pushed = True
        self._disable = (disable, give_way)
        autograd._saved_tensors_hooks_disable = give_way

    def stop_counting(self) -> None:
        """Let tensors through."""
        self._ledger = None

    def pop(self) -> bool:
        """Stop counting, and take the pair away if it is on top; whether it is gone."""
        self.stop_counting()
        autograd: Any = torch._C._autograd
        if self._pushed:
            top = autograd._top_saved_tensors_default_hooks(True)
            if top is None or top[0] is not self._pack:
                return False
            autograd._pop_saved_tensors_default_hooks()
            self._pushed = False
        if self._disable is not None:
            disable, give_way = self._disable
            if autograd._saved_tensors_hooks_disable is give_way:
                autograd._saved_tensors_hooks_disable = disable
            self._disable = None
        return True


def why_not_hook() -> str | None:
    """Why saved tensors can't be hooked here and now; None when they can."""
    autograd: Any = torch._C._autograd
    try:
        if not autograd._saved_tensors_hooks_is_enabled():
            return "saved-tensor hooks are forbidden here"
        if autograd._top_saved_tensors_default_hooks(True) is not None:
            return "the training uses saved-tensor hooks of its own"
        modes = torch.overrides._get_current_function_mode_stack()
        if torch._C._len_torch_dispatch_stack() or any(type(mode).__name__ != "DeviceContext" for mode in modes):
            return "the training runs under a mode that sees every operation"
    except AttributeError:
        return "this version of torch does not show its saved-tensor hooks"
    return None
