"""Wrap a function so that its calls are an interval of the record."""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import get_ident
from typing import Any, cast

import torch

from ..record.vocabulary import SPANS, STAGES, Flag, Kind, Name, code
from .gate import FixedCodes, short_way
from .session import Session

_is_compiling = torch.compiler.is_compiling


def timed(session: Session, original: Callable[..., Any], name: int, detail: int = 0) -> Callable[..., Any]:
    """`original`, recorded as an interval of `name`; its first call notes the user's line."""
    push = code(Kind.PUSH, name, detail)
    pop = code(Kind.POP, name, detail)
    raised = code(Kind.POP, name, detail, flags=Flag.RAISED)
    word = STAGES.get(name) or SPANS[name]
    record, clock = session.record, session.clock
    noted = False
    short: Any = None

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal noted
        if session.guarded and _is_compiling():
            return original(*args, **kwargs)
        if get_ident() != session.owner and not session.owns(push):
            return original(*args, **kwargs)
        try:
            if not noted:
                noted = True
                session.note_call(word, detail)
                if name == Name.BACKWARD:
                    session.training_began()
                if short is not wrapper:
                    short.codes = FixedCodes(push, pop, raised)
            record((push, clock()))
        except Exception as error:
            session.fail(word, error)
            return original(*args, **kwargs)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            session.write_safely(raised, word)
            raise
        try:
            record((pop, clock()))
        except Exception as error:
            session.fail(word, error)
        return result

    short = short_way(session, original, wrapper)
    return cast("Callable[..., Any]", short)
