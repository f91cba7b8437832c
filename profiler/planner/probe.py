"""Runs in a process of its own: a user's training script, up to its first optimizer step, on the meta device.

    python -m profiler.planner.probe RESULT.json SCRIPT [ARGS…]

Every parameter moves to the meta device as it is registered, so models of any size are built in no memory; data
stays real. Forward passes of root modules are counted until the first backward pass. Backward passes compute nothing;
they are told apart until the first optimizer step, which ends the script: so many micro-batches make a step. Nothing is
trained, no accelerator is touched: calls for one are answered with the CPU. No file of the user's is changed
(`only_looking`).
"""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from profiler.planner import count
from profiler.planner.only_looking import only_look

ACCELERATORS = ("cuda", "mps", "xpu", "hpu", "npu")
MAX_ROOTS = 16
MAX_MICRO_BATCHES = 4096
STEP_LIMIT_S = 30.0  # from the first backward pass to the first optimizer step: beyond it accumulation is not known


class Enough(BaseException):
    """The script came to its first optimizer step."""


class Redirect(TorchFunctionMode):  # type: ignore[misc]
    """Accelerators become the CPU, and what meets a meta tensor becomes meta."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        leaves = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        meta = any(leaf.is_meta for leaf in leaves)
        if name in ("cuda", "pin_memory", "xpu") or (name == "cpu" and meta):
            return args[0]
        if meta and name in _READS:
            return _READS[name](args[0])
        if "device" in kwargs:
            kwargs["device"] = _device(kwargs["device"], meta)
        if name == "to":
            args = (args[0], *(_device(value, meta) for value in args[1:]))
        if meta and any(not leaf.is_meta and leaf.dim() for leaf in leaves):
            args, kwargs = _pytree.tree_map(_to_meta, (args, kwargs))
        if meta:
            self._observer.see(name, args, kwargs)
        return function(*args, **kwargs)


def _read_scalar(tensor: torch.Tensor) -> Any:
    return 1.0 if tensor.dtype.is_floating_point else 1


_READS: dict[str, Callable[[Any], Any]] = {
    "item": _read_scalar,
    "tolist": lambda tensor: np.zeros(tuple(tensor.shape)).tolist(),
    "numpy": lambda tensor: np.zeros(tuple(tensor.shape), dtype=np.float32),
    "__bool__": lambda _: False,
    "__float__": lambda _: 1.0,
    "__int__": lambda _: 1,
    "__index__": lambda _: 0,
    "__array__": lambda tensor: np.zeros(tuple(tensor.shape), dtype=np.float32),
    "__repr__": lambda tensor: f"tensor(..., device='meta', size={tuple(tensor.shape)})",
    "__format__": lambda _: "1.0",
}


def _device(value: Any, meta: bool) -> Any:
    """A device argument without accelerators; meta tensors stay where they are."""
    if isinstance(value, torch.device):
        kind = value.type
    elif isinstance(value, str) and value.split(":")[0] in (*ACCELERATORS, "cpu", "meta"):
        kind = value.split(":")[0]
    elif isinstance(value, int) and not isinstance(value, bool):
        kind = "cuda"
    else:
        return value
    if kind in ACCELERATORS or kind == "cpu":
        return torch.device("meta" if meta else "cpu")
    return value


def _to_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, torch.Tensor) and not leaf.is_meta else leaf


class Observer:
    """Sees root modules run, counts them, and ends the script at its first optimizer step."""

    def __init__(self, written: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self.roots: list[torch.nn.Module] = []
        self.counted: list[Any] = []
        self.optimizer: str | None = None
        self.momentum = False
        self.autocast = False
        self.autocast_format = "bf16"
        self.autocasting = 0  # regions of autocast entered, also of a device that is not here
        self.loss_bytes: int | None = None
        self.problem: str | None = None
        self.micro_batches = 0
        self.stepped = False
        self._written = written
        self._depth = 0
        self._counting: count.Counting | None = None
        self._forward_bytes = 0
        self._forward_since = False  # a forward pass since the last backward pass
        self._first_backward_s = 0.0
        self._declared: int | None = None
        self._outputs: list[weakref.ref[torch.Tensor]] = []
        self._held_bytes = 0
        self._raised: list[torch.Tensor] = []  # that the script itself converts to float32
        self._loss_extra_bytes = 0  # of the loss under autocast, against float32

    def call(self, plain: Any, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """A module's call: a root in training is counted on the way."""
        is_root = self._depth == 0 and torch.is_grad_enabled() and module.training
        if not is_root or next(module.parameters(), None) is None:
            self._depth += 1
            try:
                return plain(module, *args, **kwargs)
            finally:
                self._depth -= 1
        args, kwargs = _pytree.tree_map(_to_meta, (args, kwargs))
        self._depth += 1
        self._forward_since = True
        try:
            if self.micro_batches:
                return plain(module, *args, **kwargs)
            if module not in self.roots and len(self.roots) < MAX_ROOTS:
                self._count(module, args, kwargs)
            if self._counting is None:
                tensors = [each for root in self.roots for each in (*root.parameters(), *root.buffers())]
                self._counting = count.Counting(tensors)
                self._counting.__enter__()
            before = self._counting.saved_bytes
            output = plain(module, *args, **kwargs)
            self._forward_bytes += self._counting.saved_bytes - before
            self._outputs += [
                weakref.ref(leaf) for leaf in _pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)
            ]
            return output
        finally:
            self._depth -= 1

    def _count(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if self._counting is not None:
            self._counting.__exit__(None, None, None)
            self._counting, self._forward_bytes = None, 0
        self.autocast = self.autocast or self.autocasting > 0
        self.counted.append(count.measure(module, (args, kwargs), self.autocasting > 0))
        self.roots.append(module)

    def see(self, name: str, args: Any, kwargs: Any) -> None:
        """A function of torch's that the script calls outside of its modules: what its loss keeps under autocast."""
        if self._depth or self.micro_batches or not any(each.ends_low for each in self.counted):
            return
        if name == "float" or (name == "to" and torch.float32 in (*args[1:], *kwargs.values())):
            self._raised.append(args[0])
        elif name == "cross_entropy":
            logits = args[0] if args else kwargs["input"]
            if count.storage_key(logits) not in {count.storage_key(each) for each in self._raised}:
                # float32 logits keep 4 bytes; 16-bit ones 2, and inside of autocast 4 more in a copy
                self._loss_extra_bytes += 2 * logits.numel() if self.autocasting else -2 * logits.numel()

    def backward(self) -> None:
        """A backward pass is asked for: nothing is computed, and gradients hold no numbers."""
        if not self.roots:
            return
        if not self.micro_batches:
            self._first_backward_s = time.monotonic()
            self._declared = _declared_accumulation(sys._getframe(1))
            if self._counting is not None:
                self.loss_bytes = self._counting.saved_bytes - self._forward_bytes
                self._raised.clear()
                self._held_bytes = self._outputs_held(self._counting)
            self._written(self.result())
            if self._counting is not None:
                self._counting.__exit__(None, None, None)
                self._counting = None
        self.micro_batches += self._forward_since or not self.micro_batches
        self._forward_since = False
        for root in self.roots:
            for parameter in root.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
        if self.micro_batches > MAX_MICRO_BATCHES or time.monotonic() - self._first_backward_s > STEP_LIMIT_S:
            raise Enough

    def _outputs_held(self, counting: count.Counting) -> int:
        held = {
            count.storage_key(tensor): tensor.untyped_storage().nbytes()
            for tensor in (each() for each in self._outputs)
            if tensor is not None and tensor.is_meta and not counting.saves(tensor)
        }
        return sum(held.values())

    def step(self) -> None:
        """The first optimizer step."""
        if self.roots:
            self.stepped = self.micro_batches > 0
            raise Enough

    def result(self) -> dict[str, Any]:
        """What was seen, as plain values."""
        parameters = {id(each): each for root in self.roots for each in root.parameters()}
        buffers = {id(each): each for root in self.roots for each in root.buffers()}
        batch = max((each.batch for each in self.counted), default=1)
        loss = (self.loss_bytes or 0) / batch
        low_loss = max(0.0, loss + self._loss_extra_bytes / batch)
        saved = sum(each.activation_bytes_per_sample for each in self.counted)
        low = sum(each.activation_bytes_per_sample * each.low_precision_share for each in self.counted)
        return {
            "name": " + ".join(type(root).__name__ for root in self.roots),
            "parameters": sum(each.numel() for each in parameters.values()),
            "trainable_parameters": sum(each.numel() for each in parameters.values() if each.requires_grad),
            "buffers": sum(each.numel() for each in buffers.values()),
            "largest_layer_parameters": count.largest_layer(self.roots),
            "counted": {
                "flops_per_sample": sum(each.flops_per_sample for each in self.counted),
                "flops_fixed": sum(each.flops_fixed for each in self.counted),
                "activation_bytes_per_sample": saved + loss,
                "activation_fixed_bytes": sum(each.activation_fixed_bytes for each in self.counted),
                "low_precision_share": (low + low_loss) / (saved + loss) if saved + loss else 0.5,
                "low_precision_copies_bytes": sum(each.low_precision_copies_bytes for each in self.counted),
                "batch": batch,
                "calls": sum(each.calls for each in self.counted),
                "largest_bytes_per_sample": max((each.largest_bytes_per_sample for each in self.counted), default=0.0),
                "held_bytes_per_sample": self._held_bytes / batch,
                "ends_low": any(each.ends_low for each in self.counted),
                "micro_batches": self.micro_batches if self.stepped else self._declared or 1,
            },
            "optimizer": self.optimizer,
            "momentum": self.momentum,
            "autocast": self.autocast_format if self.autocast else None,
            "reached_loss": self.loss_bytes is not None,
            "stepped": self.stepped,
            "declared": self._declared is not None,
            "problem": self.problem,
        }


def _declared_accumulation(frame: FrameType | None) -> int | None:
    """What a Hugging Face trainer on the stack was told: it does not go on after an empty backward pass."""
    while frame is not None:
        owner = frame.f_locals.get("self")
        steps = getattr(getattr(owner, "args", None), "gradient_accumulation_steps", None)
        if isinstance(steps, int) and steps >= 1:
            return steps
        frame = frame.f_back
    return None


def install(observer: Observer) -> None:
    """Put the probe between the script and torch."""
    module_class: Any = torch.nn.Module
    plain_call = module_class.__call__
    module_class.__call__ = lambda self, *args, **kwargs: observer.call(plain_call, self, args, kwargs)
    registry: Any = torch.nn.modules.module
    registry.register_module_parameter_registration_hook(_parameter_on_meta)
    registry.register_module_buffer_registration_hook(lambda _module, _name, buffer: _buffer_on_meta(buffer))
    torch.nn.functional.scaled_dot_product_attention = count.fused_attention
    # a function each: torch._dynamo refuses one object under two names
    torch.autograd.backward = lambda *_, **__: observer.backward()
    torch.Tensor.backward = lambda *_, **__: observer.backward()
    torch.autograd.grad = lambda *args, **kwargs: _gradients(observer, *args, **kwargs)
    torch.amp.GradScaler.step = lambda *_, **__: observer.step()
    optimizer_class: Any = torch.optim.Optimizer
    plain_init = optimizer_class.__init__

    def init(self: Any, params: Any, defaults: Any) -> None:
        observer.optimizer = observer.optimizer or type(self).__name__
        observer.momentum = observer.momentum or bool(defaults.get("momentum"))
        plain_init(self, params, defaults)

    optimizer_class.__init__ = init
    optimizer_class.profile_hook_step = staticmethod(lambda _step: lambda *_, **__: observer.step())
    _watch_autocast(observer)
    _without_accelerators()


def _gradients(observer: Observer, outputs: Any, inputs: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
    """`torch.autograd.grad` is a backward pass too, and gives its gradients."""
    observer.backward()
    return tuple(torch.empty_like(each) for each in ([inputs] if isinstance(inputs, torch.Tensor) else inputs))


def _watch_autocast(observer: Observer) -> None:
    """Autocast for a device that is not here switches itself off: what counts is what was asked for."""
    autocast: Any = torch.autocast
    plain_init, plain_enter, plain_exit = autocast.__init__, autocast.__enter__, autocast.__exit__

    def init(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain_init(self, device_type, dtype, enabled, *args, **kwargs)
        self.asked_for = bool(enabled)
        on_cuda = str(device_type).startswith("cuda")
        self.asked_format = "fp16" if dtype is torch.float16 or (dtype is None and on_cuda) else "bf16"

    def enter(self: Any) -> Any:
        observer.autocasting += self.asked_for
        if self.asked_for and not observer.autocast:
            observer.autocast_format = self.asked_format
        return plain_enter(self)

    def leave(self: Any, *exception: Any) -> Any:
        observer.autocasting -= self.asked_for
        return plain_exit(self, *exception)

    autocast.__init__, autocast.__enter__, autocast.__exit__ = init, enter, leave


def _parameter_on_meta(_module: Any, _name: str, parameter: Any) -> Any:
    if parameter is None or parameter.is_meta:
        return parameter
    moved = torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
    moved.__dict__.update(parameter.__dict__)
    return moved


def _buffer_on_meta(buffer: Any) -> Any:
    return buffer if buffer is None or buffer.is_meta else torch.empty_like(buffer, device="meta")


def _without_accelerators() -> None:
    cuda: Any = torch.cuda
    cuda.is_available = lambda: False
    cuda.device_count = lambda: 0
    for name in (
        "set_device",
        "synchronize",
        "empty_cache",
        "reset_peak_memory_stats",
        "manual_seed",
        "manual_seed_all",
    ):
        setattr(cuda, name, lambda *_args, **_kwargs: None)
    for name in ("Event", "Stream", "current_stream", "default_stream"):
        setattr(cuda, name, Idle)
    cuda.stream = lambda *_: contextlib.nullcontext()
    cuda.current_device = lambda: 0
    cuda.get_device_name = lambda *_: "planned"
    cuda.get_device_capability = lambda *_: (9, 0)
    cuda.is_bf16_supported = lambda *_, **__: True
    torch.backends.mps.is_available = lambda: False
    torch.compile = lambda model=None, **_: model if model is not None else lambda each: each
    torch.nn.Module.compile = lambda self, *_args, **_kwargs: None
    if torch.distributed.is_available():
        start: Any = torch.distributed.init_process_group

        def alone(*_: Any, **__: Any) -> None:
            store = Path(tempfile.mkdtemp(prefix="prof-plan-")) / "store"
            start("gloo", init_method=f"file://{store}", rank=0, world_size=1)

        torch.distributed.init_process_group = alone
        parallel: Any = torch.nn.parallel
        parallel.DistributedDataParallel = Wrapped


class Idle:
    """Stands for a stream or an event: nothing runs on it, nothing is waited for and no time goes by."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answer = {"elapsed_time": 0.0, "query": True}.get(name)
        return lambda *_, **__: answer


class Wrapped(torch.nn.Module):  # type: ignore[misc]
    """Stands for DistributedDataParallel: the module alone, since the plan adds the ranks."""

    def __init__(self, module: torch.nn.Module, *_: Any, **__: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own."""
        return self.module(*args, **kwargs)

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is reduced anyway."""
        return contextlib.nullcontext()


def main() -> None:
    """Run the script under the probe and write what was seen."""
    result, script, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    observer = Observer(lambda seen: _write(Path(result), seen))
    install(observer)
    only_look(Path(result).parent)
    try:
        with Redirect(observer):
            runpy.run_path(script, run_name="__main__")
    except Enough:
        pass
    except SystemExit as error:
        observer.problem = f"it ended by itself with exit code {error.code}"
    except BaseException as error:
        observer.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        if not isinstance(error, Exception):
            observer.problem = f"it was ended by {type(error).__name__}"
    _write(Path(result), observer.result())


def _write(result: Path, seen: dict[str, Any]) -> None:
    """All of it or nothing: the process may be ended at any time."""
    half = result.with_suffix(".half")
    half.write_text(json.dumps(seen), encoding="utf-8")
    half.replace(result)


if __name__ == "__main__":
    main()
