"""A piece of a bar, with its hatch and a colour of text that can be read on it."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.report import palette


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar."""

    name: str
    text: str  # the value, readable
    share: float  # of the bar, 0 to 1
    colour: str
    hatch: int

    @property
    def ink(self) -> str:
        """Colour of text on the piece."""
        return palette.ink(self.colour)
