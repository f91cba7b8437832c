"""Tools that watch every call or operator of the training: profilers, tracers, debuggers, coverage.

Looked for twice on the thread that trains, some steps apart, so that what stands at both times ran all the while.
"""

from __future__ import annotations

import sys
from threading import get_ident
from typing import Any

import torch

from .session import Session

_LOOKS = (5, 25)  # steps; our own deep window opens later


def install(session: Session) -> None:
    """Look at two of the first steps."""
    found: list[set[str]] = []

    def look() -> int | None:
        if session.owner != get_ident():
            return session.steps + 1
        found.append(instruments())
        if len(found) < len(_LOOKS):
            return _LOOKS[len(found)]
        standing = sorted(set.intersection(*found))
        session.note("setting", name="instruments", value=standing, file=None, line=None)
        return None

    session.on_step(look, first=_LOOKS[0])


def instruments() -> set[str]:
    """Names of what watches the calling thread now."""
    found = {_tool_of(watcher) for watcher in (sys.gettrace(), sys.getprofile()) if watcher is not None}
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    if monitoring is not None:
        found |= {str(name) for number in range(6) if (name := monitoring.get_tool(number)) is not None}
    if torch.autograd._profiler_enabled():
        found.add("torch.profiler")
    if torch.is_anomaly_enabled():
        found.add("anomaly detection")
    tracemalloc = sys.modules.get("tracemalloc")
    if tracemalloc is not None and tracemalloc.is_tracing():
        found.add("tracemalloc")
    return found


def _tool_of(watcher: Any) -> str:
    """The module that a trace or profile function belongs to, by its first name."""
    kind = type(watcher)
    module = getattr(watcher, "__module__", None) or kind.__module__
    if module in ("builtins", "_lsprof", None):
        module = "cProfile" if kind.__name__ == "Profiler" or module == "_lsprof" else kind.__name__
    return str(module).split(".", 1)[0]
