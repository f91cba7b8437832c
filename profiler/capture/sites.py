"""Number the places that the sampler sees, and note each of them once."""

from __future__ import annotations

import os
from types import CodeType
from typing import Any

from .looks import UserPlace
from .session import Session
from .stack_walk import line_of

_MOST_SITES = 20_000
_WORKER_BIT = 1 << 31
_WORKER_SITES = 1 << 10


class Sites:
    """Sites of one process. A worker's notes lie beside its parent's: its numbers carry its pid."""

    def __init__(self, session: Session, worker_pid: int | None = None) -> None:
        self._session = session
        self._numbers: dict[tuple[str, CodeType, int, str, CodeType | None], int] = {}
        if worker_pid is None:
            self._first, self._limit = 0, _MOST_SITES
        else:
            self._first = _WORKER_BIT | (worker_pid & 0x1FFFFF) * _WORKER_SITES
            self._limit = _WORKER_SITES

    def number(self, place: UserPlace) -> int | None:
        """The number of a line of the user's and of the function that runs there; None once there are too many."""
        function, instruction, leaf, variables = place
        line = line_of(function, instruction)
        # equal code objects may stand in several files
        key = (function.co_filename, function, line, leaf.co_filename if leaf is not None else "", leaf)
        number = self._numbers.get(key)
        if number is None:
            if len(self._numbers) >= self._limit:
                return None
            number = self._numbers[key] = self._first + len(self._numbers)
            self._session.note(
                "site",
                id=number,
                file=os.path.abspath(function.co_filename),  # noqa: PTH100
                line=line,
                function=function.co_name,
                leaf=qualified_name(leaf, variables) if leaf is not None else "",
            )
        return number


def qualified_name(code: CodeType, variables: dict[str, Any] | None) -> str:
    """`module.function` of a code object that runs with these globals, e.g. "json.encoder.JSONEncoder.encode"."""
    module = (variables or {}).get("__name__", "")
    function = getattr(code, "co_qualname", code.co_name)  # Python 3.11
    return f"{module}.{function}" if module else function
