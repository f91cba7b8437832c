"""Replace attributes of other people's classes and modules, and put everything back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Patches:
    """A list of replacements that can be undone, last first."""

    def __init__(self, on_replace: Callable[[Any], None] | None = None) -> None:
        self._on_replace = on_replace
        self._done: list[tuple[Any, str, Any, Any]] = []

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set `owner.name`, remembering what stood there."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        self._done.append((owner, name, before, value))
        if self._on_replace is not None:
            self._on_replace(value)

    def exchange(self, other: Callable[[Any], Any]) -> None:
        """Put `other(ours)` in the place of each replacement of ours that still stands."""
        for number, (owner, name, before, ours) in enumerate(self._done):
            instead = other(ours)
            if instead is not ours and vars(owner).get(name, _ABSENT) is ours:
                setattr(owner, name, instead)
                self._done[number] = (owner, name, before, instead)

    def undo(self) -> None:
        """Put everything back, except where somebody else has replaced our replacement since."""
        while self._done:
            owner, name, before, ours = self._done.pop()
            if vars(owner).get(name, _ABSENT) is not ours:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
