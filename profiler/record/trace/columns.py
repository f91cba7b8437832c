"""Columns that grow piece by piece, and the numbers that names and tracks are given.

In:  decoded events.
Out: numpy columns. Times become whole nanoseconds; what is missing or no number becomes -1.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from profiler.record.trace.recording import Ints, Track

ABSENT = -1
LONGEST_US = 7 * 86_400e6  # an event of more than a week was not measured
_LARGEST = 2.0**62


class Names(dict[Any, int]):
    """Gives each new name the next number; `known` holds them in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, int] = {}

    def __missing__(self, name: object) -> int:
        number = self[name] = self.known.setdefault(str(name), len(self.known))
        return number


class Tracks(dict[Any, "_Threads"]):
    """Numbers of tracks, by process and thread as they stand in the file: a thread may be 7 here and "7" there."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Track, int] = {}

    def __missing__(self, process: object) -> _Threads:
        threads = self[process] = _Threads(str(process), self.known)
        return threads


class _Threads(dict[Any, int]):
    """Numbers of the tracks of one process."""

    def __init__(self, process: str, known: dict[Track, int]) -> None:
        super().__init__()
        self._process, self._known = process, known

    def __missing__(self, thread: object) -> int:
        number = self[thread] = self._known.setdefault(Track(self._process, str(thread)), len(self._known))
        return number


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


def whole_numbers(values: list[Any]) -> Ints:
    """Numbers as they stand in events: integers, floats or strings of either; -1 for anything else."""
    missing = values.count(None)
    if missing == len(values):
        return np.full(len(values), ABSENT, dtype=np.int64)
    if not missing:
        with contextlib.suppress(TypeError, OverflowError):
            return np.frombuffer(array("q", values), dtype=np.int64)  # four times as fast as numpy on a list
    try:
        given = [ABSENT if value is None else value for value in values] if missing else values
        return np.array(given, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return np.fromiter(map(_whole, values), dtype=np.int64, count=len(values))


def floats(values: list[float | None]) -> npt.NDArray[np.float64]:
    """Times as they stand in events; NaN where there is none."""
    try:
        return np.frombuffer(array("d", cast("list[float]", values)), dtype=np.float64)
    except TypeError:
        return np.array(values, dtype=np.float64)


def first_said(values: list[Any], others: Callable[[], list[Any]]) -> list[Any]:
    """Values, and where one is missing what another field says; those are only looked at where one is."""
    if None not in values:
        return values
    return [other if value is None else value for value, other in zip(values, others(), strict=True)]


def _whole(value: object) -> int:
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            return ABSENT
    if isinstance(value, int | float) and abs(value) < _LARGEST:  # NaN is not less than anything
        return int(value)
    return ABSENT


def nanoseconds(micros: npt.NDArray[np.float64]) -> Ints:
    """Whole nanoseconds: the part before the point is exact however large it is."""
    whole = np.floor(micros)
    return whole.astype(np.int64) * 1000 + np.rint((micros - whole) * 1000).astype(np.int64)


def changes_of(first: list[Any], second: list[Any]) -> Ints | None:
    """Where a pair differs from the one before it, 0 among them; None where not all are whole numbers."""
    try:
        one, other = np.frombuffer(array("q", first), np.int64), np.frombuffer(array("q", second), np.int64)
    except (TypeError, OverflowError):
        return None
    differs = np.ones(len(one), dtype=bool)
    differs[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    return np.flatnonzero(differs)


def numbered(numbers: list[int]) -> npt.NDArray[np.int32]:
    """Numbers that a table gave."""
    return np.frombuffer(array("i", numbers), dtype=np.int32)
