"""Functional collectives, of which DTensor, and so tensor parallelism, is made.

They return at once, with a tensor that waits where it is first used. Communication is that wait; its kind and group
are those of the call that made the tensor, found again by where its data lie.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import distributed

from ..record.vocabulary import COLLECTIVES, Communication
from .collectives import codes_of, message, timed_wait
from .session import Session
from .traffic import ASYNCHRONOUS, BYTES, CALLS, Pending, Traffic

_is_compiling = torch.compiler.is_compiling
_MOST_MESHES = 64

FUNCTIONS: dict[str, Communication] = {
    "all_reduce": Communication.ALL_REDUCE,
    "all_reduce_coalesced": Communication.ALL_REDUCE,
    "all_gather_single": Communication.ALL_GATHER,
    "all_gather_single_coalesced": Communication.ALL_GATHER,
    "all_gather_single_autograd": Communication.ALL_GATHER,
    "all_gather_tensor": Communication.ALL_GATHER,
    "all_gather_tensor_autograd": Communication.ALL_GATHER,
    "all_gather_into_tensor_coalesced": Communication.ALL_GATHER,
    "reduce_scatter_single": Communication.REDUCE_SCATTER,
    "reduce_scatter_single_coalesced": Communication.REDUCE_SCATTER,
    "reduce_scatter_single_autograd": Communication.REDUCE_SCATTER,
    "reduce_scatter_tensor": Communication.REDUCE_SCATTER,
    "reduce_scatter_tensor_autograd": Communication.REDUCE_SCATTER,
    "reduce_scatter_tensor_coalesced": Communication.REDUCE_SCATTER,
    "all_to_all_single": Communication.ALL_TO_ALL,
    "all_to_all_single_autograd": Communication.ALL_TO_ALL,
    "broadcast": Communication.BROADCAST,
}
_GROUP_AT = {  # the place of the group among the arguments
    Communication.ALL_REDUCE: 2,
    Communication.ALL_GATHER: 2,
    Communication.REDUCE_SCATTER: 3,
    Communication.ALL_TO_ALL: 3,
    Communication.BROADCAST: 2,
}
_COALESCED_GATHER_AT = 1


class _Calls:
    """The calls under way, and the tensors that they have left to be waited for."""

    def __init__(self, session: Session, traffic: Traffic, module: Any) -> None:
        self.session = session
        self.traffic = traffic
        self.module = module
        self.under_way: Pending | None = None
        self.tensors: dict[int, Pending] = {}  # where its data lie → how its wait is recorded
        self._meshes: dict[tuple[int, Any], tuple[Any, int]] = {}

    def group(self, given: Any) -> int:
        """The number of a group, however it was given: a mesh and its dimension as a rule."""
        key = (id(given[0]), given[1]) if isinstance(given, tuple) and len(given) == 2 else (id(given), None)
        known = self._meshes.get(key)
        if known is None:
            known = (given, self.traffic.group(self._resolved(given)))
            if len(self._meshes) < _MOST_MESHES:
                self._meshes[key] = known  # the mesh is kept with it, so that its identity stays its own
        return known[1]

    def _resolved(self, given: Any) -> Any:
        """A mesh, a mesh and its dimension or a name, as the group that it stands for."""
        if isinstance(given, distributed.ProcessGroup):
            return given
        return torch._C._distributed_c10d._resolve_process_group(self.module._resolve_group_name(given))

    def waited_for(self, arguments: tuple[Any, ...]) -> Pending | None:
        """What a wait for a tensor is recorded as: it comes at the first use of the tensor, or within the call."""
        if self.tensors and arguments and type(arguments[0]) is torch.Tensor:
            return self.tensors.pop(arguments[0].data_ptr(), self.under_way)
        return self.under_way

    def left(self, result: Any, pending: Pending) -> None:
        """Remember tensors that have yet to be waited for."""
        if isinstance(result, self.module.AsyncCollectiveTensor):
            if not getattr(result, "completed", False):
                self.tensors[result.elem.data_ptr()] = pending
        elif isinstance(result, (list, tuple)):
            for each in result:
                self.left(each, pending)


def install(session: Session, traffic: Traffic, module: Any) -> None:
    """Wrap the functions of `torch.distributed._functional_collectives`, and the wait that all of them end in."""
    calls = _Calls(session, traffic, module)
    session.patches.replace(module, "wait_tensor", timed_wait(session, traffic, module.wait_tensor, calls.waited_for))
    if not hasattr(module, "AsyncCollectiveTensor") or not hasattr(module, "_resolve_group_name"):
        return
    for name, kind in FUNCTIONS.items():
        original = getattr(module, name, None)
        if original is not None:
            at = _COALESCED_GATHER_AT if name.startswith("all_gather") and "coalesced" in name else _GROUP_AT[kind]
            session.patches.replace(module, name, _known(session, calls, original, kind, at))


def _known(session: Session, calls: _Calls, original: Any, kind: Communication, group_at: int) -> Callable[..., Any]:
    """`original`, whose waits are of this kind, and which is counted by the size of its message."""
    traffic = calls.traffic
    word = COLLECTIVES[kind]
    codes: dict[int, tuple[int, int, int]] = {}

    @functools.wraps(original)
    def collective(*args: Any, **kwargs: Any) -> Any:
        if calls.under_way is not None or traffic.inside or (session.guarded and _is_compiling()):
            return original(*args, **kwargs)
        if get_ident() != session.owner:
            return original(*args, **kwargs)
        try:
            group = calls.group(args[group_at] if len(args) > group_at else kwargs.get("group"))
            dtype, size_bytes = message(args[0] if args else kwargs.get("self"))
            row = traffic.row(kind, group, dtype, size_bytes)
            if group not in codes:
                codes[group] = codes_of(kind, group)
                session.note_call("communication", kind)
            push, pop, _ = codes[group]
            row[CALLS] += 1
            row[BYTES] += size_bytes
            row[ASYNCHRONOUS] += 1
            pending = calls.under_way = (push, pop, row)
        except Exception as error:
            session.fail(word, error)
            return original(*args, **kwargs)
        try:
            result = original(*args, **kwargs)
        finally:
            calls.under_way = None
        try:
            calls.left(result, pending)
        except Exception as error:
            session.fail(word, error)
        return result

    return collective
