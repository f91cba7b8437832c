"""Numbers that a formula takes alone or as a column of candidates, and how they are written for people.

Every formula of the planner is written once: given floats it answers for one plan, given NumPy columns for a
hundred thousand, so that the search and the single plan can't disagree.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Column: TypeAlias = npt.NDArray[np.float64]
# A float or a column. NumPy's operators accept both; a union would have to be narrowed at every use.
Quantity: TypeAlias = Any

GB = 1e9
GIB = 2.0**30
MIB = 2.0**20
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
YEAR_S = 365.25 * DAY_S


def column(value: Quantity, rows: int) -> Column:
    """The value as a column of that many rows."""
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (rows,))


def bytes_text(value: float | None) -> str:
    """Decimal bytes in three digits: "2.10 TB", "700 GB", "1.88 GB"."""
    if value is None:
        return "not known"
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        # GB up to 10 TB: memory of devices is compared in GB
        if abs(value) >= (1e13 if unit == "TB" else scale):
            return f"{digits(value / scale)} {unit}"
    return f"{value:.0f} B"


def digits(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"


def count_text(value: float | None) -> str:
    """Parameters, tokens, samples: "175 B", "124 M", "15.6 T"."""
    if value is None:
        return "not known"
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{digits(value / scale)} {unit}"
    return f"{value:.0f}"


def duration_text(seconds: float | None) -> str:
    """A duration in the unit that fits: "12.3 ms" … "355 years"."""
    if seconds is None:
        return "not known"
    for unit, scale in (("years", YEAR_S), ("days", DAY_S), ("h", HOUR_S), ("min", 60.0), ("s", 1.0)):
        if seconds >= scale * (2 if unit == "years" else 1):
            return f"{digits(seconds / scale)} {unit}"
    return f"{digits(seconds * 1e3)} ms"


def money_text(usd: float | None) -> str:
    """US dollars in three digits."""
    if usd is None:
        return "not known"
    if usd >= 1e6:
        return f"${digits(usd / 1e6)} M"
    if usd >= 1e5:
        return f"${digits(usd / 1e3)}k"
    return f"${digits(usd)}" if usd >= 0.01 else "under 1 cent"
