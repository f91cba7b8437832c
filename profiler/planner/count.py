"""Count a module's work and memory by running its forward pass on the meta device: no data, no arithmetic.

In:  a module whose tensors are on the meta device, and a call of it.
Out: bytes that autograd saved, each storage once and parameters not among them; forward FLOPs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from profiler.planner.architecture import Counted, Model
from profiler.planner.autocast import Autocast, is_low

_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_PLAIN_ATTENTION = torch.nn.functional.scaled_dot_product_attention


class _Calls(TorchDispatchMode):  # type: ignore[misc]
    """Counts the operators that do work: views and metadata launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


class Counting:
    """While entered, sums what the forward passes inside it save for backward, and their FLOPs."""

    def __init__(self, ignored: Iterable[torch.Tensor]) -> None:
        self._ignored = {storage_key(tensor) for tensor in ignored}
        self._bytes: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []  # so that no storage's address is given to another
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)
        self._calls = _Calls()
        self._flops = FlopCounterMode(display=False, custom_mapping={_FUSED: _fused_flops})

    def __enter__(self) -> Counting:
        self._calls.__enter__()
        self._flops.__enter__()
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)
        self._flops.__exit__(*exception)
        self._calls.__exit__(*exception)

    @property
    def calls(self) -> int:
        """Operators called until now."""
        return self._calls.count

    @property
    def saved_bytes(self) -> int:
        """Bytes saved for backward until now."""
        return sum(self._bytes.values())

    @property
    def largest_bytes(self) -> int:
        """The largest storage among those saved."""
        return max(self._bytes.values(), default=0)

    def saves(self, tensor: torch.Tensor) -> bool:
        """Whether that tensor's storage is among those saved, or among those that do not count."""
        key = storage_key(tensor)
        return key in self._bytes or key in self._ignored

    @property
    def flops(self) -> float:
        """Forward FLOPs until now."""
        return float(self._flops.get_total_flops())

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        key = storage_key(tensor)
        if key not in self._ignored and key not in self._bytes:
            self._bytes[key] = tensor.untyped_storage().nbytes()
            self._kept.append(tensor.detach())
        return tensor.detach()


def _unpack(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def storage_key(tensor: torch.Tensor) -> int:
    """What two views of the same memory share; addresses are all zero on the meta device."""
    return int(tensor.untyped_storage()._cdata)


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Scaled dot-product attention as devices run it: fused, keeping no score matrix.

    The meta device would take the plain path, and count scores that a real run does not keep.
    """
    fused = query.is_meta and query.dim() == 4 and (attn_mask is None or attn_mask.dtype != torch.bool)
    if fused:
        try:
            output: torch.Tensor = _FUSED(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
            return output
        except RuntimeError:  # a shape that the fused kernel does not take
            pass
    options: dict[str, Any] = {"enable_gqa": True} if enable_gqa else {}
    result: torch.Tensor = _PLAIN_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
    return result


def _fused_flops(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def batch_size(tensors: list[torch.Tensor]) -> int:
    """The commonest length of the first dimension: 1 where there is none."""
    lengths = Counter(tensor.shape[0] for tensor in tensors if tensor.dim() >= 1)
    return int(lengths.most_common(1)[0][0]) if lengths else 1


def resized(call: tuple[Any, Any], batch: int, samples: int) -> tuple[Any, Any]:
    """A call's arguments on the meta device, with batches of that many samples."""

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        shape = list(leaf.shape)
        if shape and shape[0] == batch:
            shape[0] = samples
        return torch.empty(shape, dtype=leaf.dtype, device="meta")

    changed: tuple[Any, Any] = _pytree.tree_map(change, call)
    return changed


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass."""

    saved_bytes: int
    flops: float
    calls: int  # operators
    largest_bytes: int  # of one saved storage
    ends_low: bool  # its output is of 16-bit floats


def count_call(module: torch.nn.Module, call: tuple[Any, Any]) -> Pass:
    """What one forward pass saves and does."""
    arguments, keywords = call
    with Counting([*module.parameters(), *module.buffers()]) as counting:
        output = module(*arguments, **keywords)
        low = any(is_low(leaf) for leaf in _pytree.tree_leaves(output))
        return Pass(counting.saved_bytes, counting.flops, counting.calls, counting.largest_bytes, low)


def line(first: tuple[int, float], second: tuple[int, float]) -> tuple[float, float]:
    """Slope and intercept through two points, the intercept at least 0."""
    (x1, y1), (x2, y2) = first, second
    slope = (y2 - y1) / (x2 - x1) if x2 != x1 else y1 / max(x1, 1)
    intercept = y1 - slope * x1
    return (slope, intercept) if intercept > 0 else (y1 / max(x1, 1), 0.0)


def count_module(module: torch.nn.Module, *arguments: Any, name: str | None = None, **keywords: Any) -> Model:
    """A model from a module on the meta device and one call of it; the loss outside the module is not seen."""
    attention = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = fused_attention
    try:
        return model_of(
            module, measure(module, (arguments, keywords)), name or type(module).__name__, "counted on meta"
        )
    finally:
        torch.nn.functional.scaled_dot_product_attention = attention


def measure(module: torch.nn.Module, call: tuple[Any, Any], autocast: bool = False) -> Counted:
    """The module's call at two batch sizes, and once in bf16: wholly, or as `torch.autocast` does it."""
    tensors = [leaf for leaf in _pytree.tree_leaves(call) if isinstance(leaf, torch.Tensor)]
    batch = batch_size(tensors)
    once, twice = (count_call(module, resized(call, batch, size)) for size in (batch, 2 * batch))
    slope, fixed = line((batch, once.saved_bytes), (2 * batch, twice.saved_bytes))
    flops, flops_fixed = line((batch, once.flops), (2 * batch, twice.flops))
    saved = once.saved_bytes
    share, copies, ends_low = low_precision_share(module, call, batch, saved), 0.0, False
    if autocast and saved:
        with Autocast() as cast:
            in_autocast = count_call(module, resized(call, batch, batch))
        copies, ends_low = float(cast.copied_bytes), in_autocast.ends_low
        share = max(in_autocast.saved_bytes - copies, 0.0) / saved
    return Counted(
        flops_per_sample=flops,
        flops_fixed=flops_fixed,
        activation_bytes_per_sample=slope,
        activation_fixed_bytes=fixed,
        low_precision_share=share,
        low_precision_copies_bytes=copies,
        batch=batch,
        calls=float(once.calls),
        largest_bytes_per_sample=once.largest_bytes / batch,
        ends_low=ends_low,
    )


def low_precision_share(module: torch.nn.Module, call: tuple[Any, Any], batch: int, saved: int) -> float:
    """What is left of the saved bytes when the module runs in bf16; 0.5 where it can't."""
    floating = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.dtype == torch.float32]
    if not floating or saved == 0:
        return 1.0
    kept = [(tensor, tensor.data) for tensor in floating]

    def halve(leaf: Any) -> Any:
        is_float = isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32
        return leaf.to(torch.bfloat16) if is_float else leaf

    try:
        for tensor in floating:
            tensor.data = tensor.data.to(torch.bfloat16)
        return count_call(module, _pytree.tree_map(halve, resized(call, batch, batch))).saved_bytes / saved
    except (RuntimeError, TypeError, ValueError):
        return 0.5
    finally:
        for tensor, data in kept:
            tensor.data = data


def model_of(module: torch.nn.Module, counted: Counted, name: str, source: str) -> Model:
    """A model from what was counted of it."""
    parameters = list(module.parameters())
    return Model(
        name=name,
        source=source,
        parameters=float(sum(each.numel() for each in parameters)),
        trainable_parameters=float(sum(each.numel() for each in parameters if each.requires_grad)),
        flop_parameters=None,
        unit="sample",
        counted=counted,
        buffers=float(sum(each.numel() for each in module.buffers())),
        largest_layer_parameters=float(largest_layer([module])),
    )


def largest_layer(modules: Iterable[torch.nn.Module]) -> int:
    """Parameters of the largest part that sharding gathers whole: a block of a ModuleList, or a leaf."""
    largest = 0
    for module in modules:
        for child in module.modules():
            blocks: list[torch.nn.Module] = []
            if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential):
                blocks = list(child.children())
            elif not list(child.children()):
                blocks = [child]
            largest = max([largest, *(sum(each.numel() for each in block.parameters()) for block in blocks)])
    return largest
