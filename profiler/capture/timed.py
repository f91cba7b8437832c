"""Wrap a function so that its calls are an interval of the record."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..record.vocabulary import SPANS, STAGES, Flag, Kind, code
from .session import Session

_is_compiling = torch.compiler.is_compiling


def timed(session: Session, original: Callable[..., Any], name: int, detail: int = 0) -> Callable[..., Any]:
    """`original`, recorded as an interval of `name`; its first call notes the user's line."""
    push = code(Kind.PUSH, name, detail)
    pop = code(Kind.POP, name, detail)
    raised = code(Kind.POP, name, detail, flags=Flag.RAISED)
    word = STAGES.get(name) or SPANS[name]
    write = session.write
    noted = False

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal noted
        if _is_compiling() or not session.active:
            return original(*args, **kwargs)
        try:
            if not noted:
                noted = True
                session.note_call(word, detail)
            write(push)
        except Exception as error:
            session.fail(word, error)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            session.write_safely(raised, word)
            raise
        try:
            write(pop)
        except Exception as error:
            session.fail(word, error)
        return result

    return wrapper
