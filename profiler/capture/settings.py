"""Settings that matter, read where they pass by: DataLoaders, root modules, optimizers and their device.

Each is noted once, with the user's line that made it (where that was seen) or first used it. What holds for
the whole process (threads, precision, autocast, wrappers) is in `environment`.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch.nn.modules.loss import _Loss
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader, IterableDataset, Sampler, distributed, sampler

from . import environment
from .callsite import caller, user_frame
from .session import Session
from .transient import Transient

_MADE_AT = "_trainprof_made_at"
_MOST_CLASSES = 8
_MOST_ROOTS = 32  # of which more than their size is asked

_is_compiling = torch.compiler.is_compiling


@dataclass(slots=True)
class Seen:
    """What passed by so far in a session."""

    optimizers: list[weakref.ref[Optimizer]] = field(default_factory=list)
    made: list[weakref.ref[Optimizer]] = field(default_factory=list)  # also those that have not stepped yet
    device: torch.device | None = None  # of the first parameters that an optimizer held
    roots: list[tuple[int, weakref.ref[torch.nn.Module]]] = field(default_factory=list)

    def living_roots(self) -> list[tuple[int, torch.nn.Module]]:
        """The root modules that still exist, by their number."""
        found = ((number, reference()) for number, reference in self.roots)
        return [(number, module) for number, module in found if module is not None]

    def living_optimizers(self) -> list[Optimizer]:
        """The optimizers that have stepped and still exist."""
        return [optimizer for optimizer in (reference() for reference in self.optimizers) if optimizer is not None]

    def updated(self) -> set[int]:
        """Identities of all parameters that an optimizer holds, whether it has stepped or not."""
        held = [optimizer for optimizer in (reference() for reference in self.made) if optimizer is not None]
        groups = [group for optimizer in (*held, *self.living_optimizers()) for group in optimizer.param_groups]
        return {id(parameter) for group in groups for parameter in group["params"]}


_seen: weakref.WeakKeyDictionary[Session, Seen] = weakref.WeakKeyDictionary()


def seen(session: Session) -> Seen:
    """What passed by so far in this session."""
    known = _seen.get(session)
    if known is None:
        known = _seen[session] = Seen()
    return known


class MadeAt(Transient):
    """The user's line that made the object it is kept on."""

    __slots__ = ("site",)

    def __init__(self, site: dict[str, Any] | None) -> None:
        self.site = site


def install(session: Session) -> None:
    """Remember where loaders and optimizers are made, and read the process's settings as they pass by."""
    for owner in (DataLoader, Optimizer):
        session.patches.replace(owner, "__init__", _remember_site(session, owner.__init__))
    environment.install(session)


def _remember_site(session: Session, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if not session.active or _is_compiling():
            return
        try:
            if isinstance(self, Optimizer):
                seen(session).made.append(weakref.ref(self))
            vars(self)[_MADE_AT] = MadeAt(_site(_outside_init(self, sys._getframe(1))))
        except Exception as error:
            session.fail("settings", error)

    return __init__


def _outside_init(made: Any, frame: FrameType | None) -> FrameType | None:
    """The frame that made `made`: beyond the `__init__` of a class of the user's own that derives from it."""
    while frame is not None and frame.f_code.co_name == "__init__":
        names = frame.f_code.co_varnames
        if not names or frame.f_locals.get(names[0]) is not made:
            break
        frame = frame.f_back
    return frame


def _site(frame: FrameType | None) -> dict[str, Any] | None:
    frame = user_frame(frame)
    return {"file": os.path.abspath(frame.f_code.co_filename), "line": frame.f_lineno} if frame else None  # noqa: PTH100


def _place(holder: Any, depth: int = 1) -> dict[str, Any]:
    """File and line for a note: of construction where it was seen, else of the call under way."""
    made_at = vars(holder).get(_MADE_AT) if holder is not None else None
    site = made_at.site if isinstance(made_at, MadeAt) and made_at.site else caller(depth + 1)
    return {"file": site["file"], "line": site["line"]} if site else {"file": None, "line": None}


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Without those that are not set."""
    return {name: value for name, value in values.items() if value is not None}


# DataLoader


def describe_loader(session: Session, number: int, loader: Any, depth: int = 1) -> None:
    """Note a DataLoader's arguments. Asks the dataset nothing that the loader does not ask it anyway."""
    dataset = getattr(loader, "dataset", None)
    iterable = isinstance(dataset, IterableDataset)
    num_workers = int(getattr(loader, "num_workers", 0) or 0)
    session.note(
        "loader",
        id=number,
        dataset=type(dataset).__name__,
        batch_size=_batch_size(loader),
        num_workers=num_workers,
        pin_memory=bool(getattr(loader, "pin_memory", False)),
        prefetch_factor=getattr(loader, "prefetch_factor", None),
        persistent_workers=bool(getattr(loader, "persistent_workers", False)),
        iterable=iterable,
        shuffle=None if iterable else _shuffles(getattr(loader, "sampler", None)),
        length=None if iterable else _length(loader, dataset),
        context=_start_method(loader) if num_workers else None,
        **_place(loader, depth),
        extra=_known(
            {
                "class": type(loader).__name__,
                "dataset_module": type(dataset).__module__,
                "sampler": type(getattr(loader, "sampler", None)).__name__,
                "batch_sampler": type(getattr(loader, "batch_sampler", None)).__name__,
                "drop_last": bool(getattr(loader, "drop_last", False)),
                "collate_fn": getattr(getattr(loader, "collate_fn", None), "__qualname__", None),
                "timeout": getattr(loader, "timeout", None) or None,
                "in_order": getattr(loader, "in_order", None),
            }
        ),
    )


def _batch_size(loader: Any) -> int | None:
    size = getattr(loader, "batch_size", None)
    if size is None:
        size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else None


def _shuffles(order: Any) -> bool | None:
    if isinstance(order, distributed.DistributedSampler):
        return bool(order.shuffle)
    if isinstance(order, (sampler.RandomSampler, sampler.SubsetRandomSampler, sampler.WeightedRandomSampler)):
        return True
    return False if isinstance(order, sampler.SequentialSampler) else None


def _length(loader: Any, dataset: Any) -> int | None:
    """Items in the dataset, where the loader's sampler calls `len(dataset)` anyway at each epoch."""
    order = getattr(loader, "sampler", None)
    asks = (sampler.RandomSampler, sampler.SequentialSampler, distributed.DistributedSampler)
    if type(order) not in asks or not isinstance(order, Sampler):
        return None
    try:
        return len(dataset)
    except Exception:
        return None


def _start_method(loader: Any) -> str | None:
    """How the workers start. Asking multiprocessing the plain way would fix its default for good."""
    context = getattr(loader, "multiprocessing_context", None)
    if context is not None:
        return str(context.get_start_method())
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


# root modules


def describe_root(session: Session, number: int, module: torch.nn.Module) -> None:
    """Note a root module: its size, its kinds of parameters, and the line that called it."""
    inner = getattr(module, "_orig_mod", module)
    if number < _MOST_ROOTS:
        seen(session).roots.append((number, weakref.ref(module)))
    count = size_bytes = trainable = 0
    dtypes: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for parameter in _parameters(module):
        count += parameter.numel()
        size_bytes += parameter.numel() * parameter.element_size()
        trainable += parameter.numel() if parameter.requires_grad else 0
        dtypes[_dtype(parameter)] += 1
        devices[parameter.device.type] += 1
    classes = Counter(type(part).__name__ for part in torch.nn.Module.modules(module))
    session.note(
        "root",
        id=number,
        name=type(inner).__name__,
        is_loss=isinstance(module, _Loss),
        parameters=count,
        parameter_bytes=size_bytes,
        trainable_parameters=trainable,
        dtypes=[name for name, _ in dtypes.most_common()],
        submodules=sum(classes.values()) - 1,
        compiled=_is_compiled(module, inner),
        **_place(None),
        extra={
            "devices": [name for name, _ in devices.most_common()],
            "made_of": ", ".join(f"{count} {name}" for name, count in classes.most_common(_MOST_CLASSES)),
            "training": bool(module.training),
        },
    )


def _parameters(module: torch.nn.Module) -> Iterable[torch.Tensor]:
    """Parameters that have a size by now; those of lazy modules get theirs at the first call."""
    for parameter in torch.nn.Module.parameters(module):
        if not isinstance(parameter, torch.nn.parameter.UninitializedTensorMixin):
            yield parameter


def _is_compiled(module: torch.nn.Module, inner: torch.nn.Module) -> bool:
    slot = vars(module).get("_compiled_call_impl")
    return inner is not module or (slot is not None and not isinstance(slot, Transient))


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# optimizers


def describe_optimizer(session: Session, number: int, optimizer: Optimizer) -> None:
    """Note an optimizer at its first step; and the device, which by then the training uses."""
    known = seen(session)
    known.optimizers.append(weakref.ref(optimizer))
    first = optimizer.param_groups[0] if optimizer.param_groups else {}
    parameters = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    if known.device is None and parameters:
        known.device = parameters[0].device
        note_device(session, known.device)
    session.note(
        "optimizer",
        id=number,
        name=type(optimizer).__name__,
        foreach=first.get("foreach"),
        fused=first.get("fused"),
        capturable=first.get("capturable"),
        tensors=len(parameters),
        groups=len(optimizer.param_groups),
        parameters=sum(tensor.numel() for tensor in parameters),
        **_place(optimizer),
        extra=_known(
            {
                "module": type(optimizer).__module__,
                "differentiable": first.get("differentiable"),
                "momentum": first.get("momentum") if isinstance(first.get("momentum"), (int, float)) else None,
                "devices": sorted({tensor.device.type for tensor in parameters}),
                "dtypes": sorted({_dtype(tensor) for tensor in parameters}),
            }
        ),
    )


def note_device(session: Session, device: torch.device) -> None:
    """Note the device that the parameters are on; it is initialised, since they are."""
    name, capacity_bytes = device.type, None
    if device.type == "cuda" and torch.cuda.is_initialized():
        properties = torch.cuda.get_device_properties(device)
        name, capacity_bytes = properties.name, properties.total_memory
    session.note(
        "device",
        name=name,
        type=device.type,
        asynchronous=device.type != "cpu",
        capacity_bytes=capacity_bytes,
        device_times=False,
    )
