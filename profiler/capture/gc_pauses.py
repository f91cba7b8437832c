"""Garbage collection pauses of the training thread."""

from __future__ import annotations

import contextlib
import gc
from threading import get_ident
from typing import Any

from ..record.vocabulary import Name, pause_code
from .session import Session

SHORTEST_PAUSE_NS = 20_000


def install(session: Session) -> None:
    """Time collections; those of at least 20 µs on the training thread become PAUSE events."""
    clock = session.clock
    record = session.record
    began_ns = 0

    def collected(phase: str, info: dict[str, int]) -> None:
        # raising here would print a message into the user's output
        nonlocal began_ns
        if phase == "start":
            began_ns = clock()
            return
        length_ns = clock() - began_ns
        if length_ns >= SHORTEST_PAUSE_NS and began_ns and session.owner == get_ident():
            try:
                record((pause_code(Name.GARBAGE_COLLECTION, length_ns), clock()))
            except Exception as error:
                session.fail("garbage collection", error)

    callbacks: list[Any] = gc.callbacks
    callbacks.append(collected)

    def remove() -> None:
        with contextlib.suppress(ValueError):
            callbacks.remove(collected)

    session.on_close(remove)
