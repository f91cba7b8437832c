"""Messages from one rank to another that the program does not wait for at once: pipelines, rings.

`isend` and `irecv` are not replaced, since `P2POp` compares them by identity; what both call is: a process group's
`send` and `recv`. Handing a message over is communication too: gloo keeps the caller until the receiver takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import distributed

from ..record.vocabulary import COLLECTIVES, Communication
from .collectives import codes_of, message
from .session import Session
from .traffic import ASYNCHRONOUS, BLOCKED, BYTES, CALLS, Traffic

_is_compiling = torch.compiler.is_compiling
_METHODS = {
    "send": Communication.SEND,
    "recv": Communication.RECEIVE,
    "recv_anysource": Communication.RECEIVE,
}


def install(session: Session, traffic: Traffic) -> None:
    """Wrap the methods of process groups of every backend."""
    for name, kind in _METHODS.items():
        original = getattr(distributed.ProcessGroup, name, None)
        if original is not None:
            session.patches.replace(distributed.ProcessGroup, name, _timed(session, traffic, original, kind))


def _timed(session: Session, traffic: Traffic, original: Any, kind: Communication) -> Callable[..., Any]:
    record, clock = session.record, session.clock
    word = COLLECTIVES[kind]
    codes: dict[int, tuple[int, int, int]] = {}

    @functools.wraps(original)
    def transfer(self: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if traffic.inside or (session.guarded and _is_compiling()) or get_ident() != session.owner:
            return original(self, tensors, *args, **kwargs)
        try:
            group = traffic.group(self)
            dtype, size_bytes = message(tensors)
            row = traffic.row(kind, group, dtype, size_bytes)
            if group not in codes:
                codes[group] = codes_of(kind, group)
                session.note_call("communication", kind)
            push, pop, raised = codes[group]
            began_ns = clock()
            record((push, began_ns))
        except Exception as error:
            session.fail(word, error)
            return original(self, tensors, *args, **kwargs)
        try:
            work = original(self, tensors, *args, **kwargs)
        except BaseException:
            session.write_safely(raised, word)
            raise
        try:
            ended_ns = clock()
            record((pop, ended_ns))
            row[BLOCKED] += ended_ns - began_ns
            row[CALLS] += 1
            row[BYTES] += size_bytes
            row[ASYNCHRONOUS] += 1
            traffic.is_pending(id(work), (push, pop, row))
        except Exception as error:
            session.fail(word, error)
        return work

    return transfer
