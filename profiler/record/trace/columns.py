"""Columns that grow piece by piece, and times as whole nanoseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.record.trace.recording import Ints

LONGEST_US = 7 * 86_400e6  # an event of more than a week was not measured


class Column:
    """One growing column, in one piece of memory: many small ones would leave holes behind."""

    def __init__(self, dtype: npt.DTypeLike = np.int64) -> None:
        self._held: npt.NDArray[Any] = np.empty(1024, dtype=dtype)
        self._count = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Append a piece."""
        until = self._count + len(values)
        if until > len(self._held):
            self._held.resize(until + until // 4, refcheck=False)
        self._held[self._count : until] = values
        self._count = until

    def take(self) -> npt.NDArray[Any]:
        """All of it; the column is of no use afterwards."""
        held, self._held = self._held, self._held[:0]
        held.resize(self._count, refcheck=False)
        return held


def nanoseconds(micros: npt.NDArray[np.float64]) -> Ints:
    """Whole nanoseconds: the part before the point is exact however large it is."""
    whole = np.floor(micros)
    return whole.astype(np.int64) * 1000 + np.rint((micros - whole) * 1000).astype(np.int64)
