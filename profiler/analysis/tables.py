"""Tables whose rows stay bounded: when one grows too long, every second row goes and its neighbour counts for it.

A row's `weight` says for how many it stands; the sum of weights is always the number of rows that were added.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from profiler.analysis.asides import Columns
from profiler.analysis.stack import Bools

ABSENT = -1  # in a column of readings ("value_…"): there was none


def rows_of(columns: Columns) -> int:
    """The number of rows."""
    return len(next(iter(columns.values()))) if columns else 0


@dataclass(slots=True)
class Table:
    """Columns of equal length, appended in chunks. A column that a chunk lacks holds zeros there."""

    limit: int
    chunks: list[Columns] = field(default_factory=list)
    rows: int = 0

    def add(self, columns: Columns) -> None:
        """Append rows."""
        count = rows_of(columns)
        if count == 0:
            return
        if "weight" not in columns:
            columns = {**columns, "weight": np.ones(count, dtype=np.int64)}
        self.chunks.append(columns)
        self.rows += count

    def columns(self) -> Columns:
        """All rows."""
        if len(self.chunks) > 1:
            names = sorted({name for chunk in self.chunks for name in chunk})
            self.chunks = [{name: np.concatenate([_column(chunk, name) for chunk in self.chunks]) for name in names}]
        return self.chunks[0] if self.chunks else {}

    def thin(self, protected: Bools | None = None) -> bool:
        """Halve the unprotected rows if there are more than `limit`; whether it was done."""
        if self.rows <= self.limit:
            return False
        columns = self.columns()
        loose = np.flatnonzero(~protected) if protected is not None else np.arange(self.rows)
        kept, dropped = loose[::2], loose[1::2]
        weight = columns["weight"].copy()
        weight[kept[: len(dropped)]] += weight[dropped]
        keep = np.ones(self.rows, dtype=bool)
        keep[dropped] = False
        self.chunks = [{**{name: column[keep] for name, column in columns.items()}, "weight": weight[keep]}]
        self.rows = int(np.count_nonzero(keep))
        return True


def _column(chunk: Columns, name: str) -> npt.NDArray[np.int64]:
    if name in chunk:
        return chunk[name]
    return np.full(rows_of(chunk), ABSENT if name.startswith("value_") else 0, dtype=np.int64)


def packed(columns: Columns) -> dict[str, npt.NDArray[np.generic]]:
    """The columns in the smallest unsigned type that holds them, for the disk."""
    result: dict[str, npt.NDArray[np.generic]] = {}
    for name, column in columns.items():
        low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        kind = next(
            (kind for kind in (np.uint8, np.uint16, np.uint32) if low >= 0 and high <= np.iinfo(kind).max),
            None,
        )
        result[name] = column.astype(kind) if kind else column
    return result
