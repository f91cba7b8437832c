"""A row of the validation: what was published, what the planner computes, and how far they may differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure beside ours.

    `trust`: "source" (read in the project's source or documentation), "text" (read in a public page), "computed" (the
    published formula's own arithmetic), "recalled" (from memory: shown, never the base of a test).
    """

    what: str
    published: float
    computed: float
    unit: str
    tolerance: float  # relative
    trust: str
    why: str = ""  # an explanation, owed where the row misses

    @property
    def error(self) -> float:
        """Relative error, computed against published."""
        return self.computed / self.published - 1

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance; the last digit of a float is no miss."""
        return abs(self.error) <= self.tolerance + 1e-12


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that belong together."""

    title: str
    about: str
    rows: tuple[Row, ...]
