"""Collectives that the program calls: `torch.distributed`'s functions, and the waits for those it made asynchronous.

Communication is where the training thread is blocked: in a synchronous call, or in the wait for an asynchronous one.
What is built of these (FSDP, ZeroRedundancyOptimizer) is seen through them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import distributed

from ..record.vocabulary import COLLECTIVES, Communication, Flag, Kind, Name, code
from .session import Session
from .traffic import ASYNCHRONOUS, BLOCKED, BYTES, CALLS, NOBODY, Pending, Traffic, took

_is_compiling = torch.compiler.is_compiling
_ANY = code(Kind.PUSH, Name.COMMUNICATION)

FUNCTIONS: dict[str, Communication] = {
    "all_reduce": Communication.ALL_REDUCE,
    "all_reduce_coalesced": Communication.ALL_REDUCE,
    "all_gather": Communication.ALL_GATHER,
    "all_gather_into_tensor": Communication.ALL_GATHER,
    "all_gather_single": Communication.ALL_GATHER,
    "all_gather_coalesced": Communication.ALL_GATHER,
    "reduce_scatter": Communication.REDUCE_SCATTER,
    "reduce_scatter_tensor": Communication.REDUCE_SCATTER,
    "reduce_scatter_single": Communication.REDUCE_SCATTER,
    "all_to_all": Communication.ALL_TO_ALL,
    "all_to_all_single": Communication.ALL_TO_ALL,
    "barrier": Communication.BARRIER,
    "monitored_barrier": Communication.BARRIER,
    "all_gather_object": Communication.OBJECTS,
    "broadcast": Communication.BROADCAST,
    "broadcast_object_list": Communication.BROADCAST,
    "reduce": Communication.REDUCE,
    "gather": Communication.GATHER,
    "gather_object": Communication.GATHER,
    "scatter": Communication.SCATTER,
    "scatter_object_list": Communication.SCATTER,
    "send": Communication.SEND,
    "send_object_list": Communication.SEND,
    "recv": Communication.RECEIVE,
    "recv_object_list": Communication.RECEIVE,
}
_NO_TENSOR = (Communication.BARRIER, Communication.OBJECTS)
_PEER = {Communication.SEND: "dst", Communication.RECEIVE: "src"}  # a rank of the job
_SECOND = (Communication.REDUCE_SCATTER,)  # whose message is the second argument: what goes in


def install(session: Session, traffic: Traffic) -> None:
    """Wrap the functions where they are defined and where they are exported."""
    defined = distributed.distributed_c10d
    for name, kind in FUNCTIONS.items():
        original = getattr(defined, name, None)
        if original is None:
            continue
        wrapper = timed_collective(session, traffic, original, kind)
        for owner in (defined, distributed):
            if getattr(owner, name, None) is original:
                session.patches.replace(owner, name, wrapper)


def install_waits(session: Session, traffic: Traffic) -> None:
    """Wrap `Work.wait`; every kind of Work inherits it."""
    pending = traffic.pending

    def known(arguments: tuple[Any, ...]) -> Pending | None:
        return pending.pop(id(arguments[0]), None)

    session.patches.replace(distributed.Work, "wait", timed_wait(session, traffic, distributed.Work.wait, known))


def message(value: Any) -> tuple[Any, int]:
    """Type and bytes of a tensor, or of all tensors of a list."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.nbytes
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        return value[0].dtype, sum(tensor.nbytes for tensor in value)
    return None, 0


def codes_of(kind: int, group: int) -> tuple[int, int, int]:
    """PUSH, POP and the POP of a call that raised."""
    return (
        code(Kind.PUSH, Name.COMMUNICATION, kind, group),
        code(Kind.POP, Name.COMMUNICATION, kind, group),
        code(Kind.POP, Name.COMMUNICATION, kind, group, Flag.RAISED),
    )


def timed_collective(session: Session, traffic: Traffic, original: Any, kind: int) -> Callable[..., Any]:
    """`original`, recorded as communication of its group, and counted by the size of its message."""
    places = {name: at for at, name in enumerate(inspect.signature(original).parameters)}
    group_at = places["group"]
    tensor_at = int(kind in _SECOND)
    tensor_name = list(places)[tensor_at]
    peer_name = _PEER.get(Communication(kind), "")
    peer_at = places.get(peer_name, -1)
    has_tensor = kind not in _NO_TENSOR and "obj" not in places and not tensor_name.endswith("object_list")
    record, clock = session.record, session.clock
    codes: dict[int, tuple[int, int, int]] = {}
    word = COLLECTIVES[kind]

    @functools.wraps(original)
    def collective(*args: Any, **kwargs: Any) -> Any:
        if traffic.inside or (session.guarded and _is_compiling()):
            return original(*args, **kwargs)
        if get_ident() != session.owner and not session.owns(_ANY):
            return original(*args, **kwargs)
        try:
            group = traffic.group(args[group_at] if len(args) > group_at else kwargs.get("group"))
            dtype = None
            size_bytes = 0
            if has_tensor:
                given = args[tensor_at] if len(args) > tensor_at else kwargs.get(tensor_name)
                dtype, size_bytes = message(given)
            peer = None
            if peer_name:
                peer = args[peer_at] if len(args) > peer_at else kwargs.get(peer_name)
            row = traffic.row(kind, group, dtype, size_bytes, NOBODY if peer is None else int(peer))
            if group not in codes:
                codes[group] = codes_of(kind, group)
                session.note_call("communication", kind)
            push, pop, raised = codes[group]
            traffic.inside = True
            began_ns = clock()
            record((push, began_ns))
        except Exception as error:
            traffic.inside = False
            session.fail(word, error)
            return original(*args, **kwargs)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            traffic.inside = False
            session.write_safely(raised, word)
            raise
        traffic.inside = False
        try:
            ended_ns = clock()
            record((pop, ended_ns))
            row[CALLS] += 1
            row[BYTES] += size_bytes
            if kwargs.get("async_op") or isinstance(result, distributed.Work):
                row[ASYNCHRONOUS] += 1
                traffic.is_pending(id(result), (push, pop, row))
            else:
                took(row, ended_ns - began_ns)
        except Exception as error:
            session.fail(word, error)
        return result

    return collective


def timed_wait(
    session: Session, traffic: Traffic, original: Any, known: Callable[[tuple[Any, ...]], Pending | None]
) -> Callable[..., Any]:
    """`original`, recorded as a wait for what its arguments are `known` to stand for."""
    record, clock = session.record, session.clock
    unknown_push, unknown_pop, raised = codes_of(Communication.WAIT, 0)

    @functools.wraps(original)
    def wait(*args: Any, **kwargs: Any) -> Any:
        if traffic.inside or (session.guarded and _is_compiling()) or get_ident() != session.owner:
            return original(*args, **kwargs)
        try:
            push, pop, row = known(args) or (unknown_push, unknown_pop, None)
            began_ns = clock()
            record((push, began_ns))
        except Exception as error:
            session.fail("communication", error)
            return original(*args, **kwargs)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            session.write_safely(raised, "communication")
            raise
        try:
            ended_ns = clock()
            record((pop, ended_ns))
            if row is not None:
                row[BLOCKED] += ended_ns - began_ns
        except Exception as error:
            session.fail("communication", error)
        return result

    return wait
