"""Where a process's events go first, and the short way for hooks, in C where it could be built.

Each hook is a Python function that does the whole work. `short_way` puts a C callable in its place, which does what
nearly every call needs and hands the rest to that function. Where the C module is missing (no compiler at
installation, not Linux, `PROF_PURE_PYTHON=1`) the functions themselves stand there.
"""

from __future__ import annotations

import functools
import importlib
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .session import Session

NEVER = 1 << 62


def _compiled() -> Any:
    """The C module, or None."""
    if os.environ.get("PROF_PURE_PYTHON", "") not in ("", "0"):
        return None
    try:
        return importlib.import_module("._interval", __package__)
    except ImportError:
        return None


fast = _compiled()


class PythonGate:
    """What `_interval.Gate` is, without the short way."""

    def __init__(self) -> None:
        self.owner = 0  # identity of the thread that may take the short way; 0: none
        self.steps = 0  # optimizer steps of the thread that trains
        self.due = NEVER  # the step at which `on_due` is to be called
        self.in_step = False  # an optimizer's step is under way
        self.searching = False  # roots are being looked for
        self.on_due: Callable[[], None] | None = None
        self._words: list[int] = []
        self.record: Callable[[tuple[int, int]], None] = self._words.extend

    def __len__(self) -> int:
        """Events kept."""
        return len(self._words) // 2

    def take(self) -> Sequence[int]:
        """All events since the last time: codes and times in turn."""
        words = self._words[:]
        del self._words[: len(words)]
        return words


class PythonCodes:
    """What `_interval.Codes` is, where nobody in C reads them."""

    def keep(self, push: int | list[int], pop: int, raised: int, ended: int) -> None:
        """Tell the short way the codes."""


class PythonTurn:
    """What `_interval.Turn` is: how many calls to let pass."""

    skip = 0


Gate: Any = fast.Gate if fast is not None else PythonGate
Codes: Any = fast.Codes if fast is not None else PythonCodes
Root: Any = fast.Root if fast is not None else object
Turn: Any = fast.Turn if fast is not None else PythonTurn


def has_short_way(session: Session) -> bool:
    """Whether hooks may be C callables: they read the clock themselves."""
    return (
        fast is not None
        and not session.guarded
        and isinstance(session.gate, fast.Gate)
        and session.clock is time.perf_counter_ns
    )


def short_way(
    session: Session,
    original: Callable[..., Any],
    slow: Callable[..., Any],
    key: str | None = None,
    is_step: bool = False,
) -> Any:
    """`slow`, or a C callable in its place.

    `slow` wraps `original` and does the whole work. With a `key`, the first argument's attribute of that name holds
    the `Codes`; otherwise `slow` says them by `remember(…)` on what was returned here.
    """
    if not has_short_way(session):
        return slow
    made = fast.Interval(session.gate, original, slow, key, is_step)
    functools.update_wrapper(made, slow)
    return made


def sometimes(original: Callable[..., Any], slow: Callable[..., Any], key: str) -> Any:
    """`slow`, or a C callable that goes there only when it is the turn of the first argument's `Turn`.

    That attribute is called `key`; where it is missing, it is its turn.
    """
    if fast is None:

        @functools.wraps(original)
        def passes(self: Any, *args: Any) -> Any:
            turn = getattr(self, key, None)
            if turn is None or turn.skip <= 0:
                return slow(self, *args)
            turn.skip -= 1
            return original(self, *args)

        return passes
    made = fast.Sometimes(original, slow, key)
    functools.update_wrapper(made, original)
    return made


def recorded_call(gate: Any, function: Callable[[], Any]) -> Callable[[], Any]:
    """`function` by the short way into a gate of its own; to time what that costs."""
    made = fast.Interval(gate, function, function)
    made.codes = FixedCodes(0, 0, 0)
    return cast("Callable[[], Any]", made)


def plain(replacement: Any) -> Any:
    """The Python function behind a C callable: what the compiler can trace. Anything else as it is."""
    return replacement.slow if fast is not None and isinstance(replacement, fast.Interval) else replacement


class FixedCodes(Codes):  # type: ignore[misc]
    """Codes that serve every call of one function."""

    def __init__(self, push: int, pop: int, raised: int) -> None:
        self.keep(push, pop, raised, raised)
