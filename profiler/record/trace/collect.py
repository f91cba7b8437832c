"""Append events to columns.

In:  pieces of a trace: text that was scanned, or lists of decoded events.
Out: the columns of a `Recording`. Categories are told by what Kineto calls them since 2021; unknown
ones count for the span alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.record.trace.columns import LONGEST_US, Column, nanoseconds
from profiler.record.trace.event import Args, Event
from profiler.record.trace.numbers import LEFT_OUT, PYTHON, Numbers
from profiler.record.trace.python import Numbered
from profiler.record.trace.recording import (
    Calls,
    DeviceEvents,
    Ints,
    MemoryReadings,
    Numbering,
    Operators,
    PythonCalls,
)
from profiler.record.trace.rows import DTYPES, Rows, indices_of, rows_of_events, whole_numbers
from profiler.record.trace.scan import Scanned, rows_of

_MEMORY = "[memory]"
_ACCELERATORS = frozenset(range(1, 64))  # device types of c10: 0 is the CPU
_NOTHING = Args()
_NO_INDEX = (0, 1 << 62, -1)  # numbers of host events: seen, lowest, highest
_LATEST_US = 2.0**62 / 1000
FARTHEST_US = 86_400e6  # an event a day away from the others has no time that can be believed


class Collector:
    """Takes events piece by piece; `recorded` parts are on the trace's own clock less `origin`."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self._users = Numbered()
        self.kept = 0
        self.damaged = 0  # without a time that can be believed
        self.far = 0  # more than a day away from the others
        self._reference_us: float | None = None
        self._first, self._last = 1 << 62, -(1 << 62)
        self._columns: dict[str, Column] = {}
        self._index = _NO_INDEX

    def add(self, piece: Scanned | list[Event]) -> None:
        """Append a piece."""
        given = rows_of(piece) if isinstance(piece, Scanned) else rows_of_events(piece, self.numbers)
        for rows in given:
            if rows.table != LEFT_OUT:
                self._take(rows)
        if not isinstance(piece, Scanned):
            self._take_readings([event for event in piece if event.ph != "X" and event.name == _MEMORY])

    def _take(self, rows: Rows) -> None:
        """The events whose time can be believed, with their start and end in ns."""
        start, length = rows.start, rows.length
        good = (np.abs(start) < _LATEST_US) & (length >= 0) & (length < LONGEST_US)
        if self._reference_us is None and bool(good.any()):
            self._reference_us = float(np.median(start[good]))
        near = good & (np.abs(start - (self._reference_us or 0.0)) < FARTHEST_US)
        self.damaged += int(np.count_nonzero(~good))
        self.far += int(np.count_nonzero(good & ~near))
        if not bool(near.all()):
            rows = rows.where(near)
        if not len(rows.start):
            return
        begins = nanoseconds(rows.start)
        ends = begins + np.rint(rows.length * 1000).astype(np.int64)
        self.kept += len(begins)
        self._first = min(self._first, int(begins.min()))
        self._last = max(self._last, int(ends.max()))
        columns = dict(rows.columns)
        if "index" in columns:
            self._count_indices(columns.pop("index"))
        if columns:
            columns = {"start": begins, "end": ends, **columns}
        if rows.table == PYTHON:
            columns = self._of_users(columns)
        for name, values in columns.items():
            self._add(f"{rows.table}.{name}", values, DTYPES.get(name, values.dtype))

    def _of_users(self, columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The user's functions and what they call: the rest lies within those. Callers come first."""
        number, own, caller = columns["name"], columns.pop("own"), columns.pop("caller")
        users = number >= 0
        columns |= {"name": np.where(users, number, -1 - number), "users": users}
        self._users.add(own[users])
        kept = users | self._users.holds(caller)
        return {name: values[kept] for name, values in columns.items()}

    def _count_indices(self, given: Ints) -> None:
        given = given[given >= 0]
        if len(given):
            seen, lowest, highest = self._index
            self._index = (seen + len(given), min(lowest, int(given.min())), max(highest, int(given.max())))

    def _take_readings(self, events: list[Event]) -> None:
        """The allocator's state on accelerators."""
        if not events:
            return
        args = [event.args or _NOTHING for event in events]
        self._count_indices(indices_of(args))
        time = np.array([event.ts for event in events], dtype=np.float64)
        near = np.abs(time - (self._reference_us or 0.0)) < FARTHEST_US
        near &= np.array([arg.device_type in _ACCELERATORS for arg in args], dtype=bool)
        for name, values in (
            ("device", [arg.device_id for arg in args]),
            ("allocated", [arg.allocated for arg in args]),
            ("reserved", [arg.reserved for arg in args]),
        ):
            self._add(f"memory.{name}", whole_numbers(values)[near])
        self._add("memory.time", nanoseconds(time[near]))

    def _add(self, name: str, values: npt.NDArray[Any], dtype: npt.DTypeLike = np.int64) -> None:
        if name not in self._columns:
            self._columns[name] = Column(dtype)
        self._columns[name].add(values)

    @property
    def origin_ns(self) -> int:
        """The first start, on the trace's own clock."""
        return self._first

    @property
    def length_ns(self) -> int:
        """From the first start to the last end."""
        return self._last - self._first

    @property
    def numbering(self) -> Numbering | None:
        """Of the host's events, where they are numbered."""
        return Numbering(*self._index) if self._index[0] else None

    def operators(self) -> Operators:
        """Empties the columns, as do the others: each is taken once."""
        host = self._taken_host("operators")
        marked = self._taken("operators.marked", np.bool_)
        given, frame = (self._taken(f"operators.{name}", np.int32) for name in ("given", "frame"))
        return Operators(*host, self._taken("operators.external"), marked, given, frame)

    def python(self) -> PythonCalls:
        """The user's functions, and what they call."""
        return PythonCalls(*self._taken_host("python"), self._taken("python.users", np.bool_))

    def calls(self) -> Calls:
        """Calls of the runtime."""
        return Calls(*self._taken_host("calls"), self._taken("calls.correlation"), self._taken("calls.bytes"))

    def device(self) -> DeviceEvents:
        """Kernels, copies and memsets."""
        return DeviceEvents(
            *self._taken_host("device"),
            work=self._taken("device.work", np.int8),
            device=self._taken("device.device", np.int32),
            stream=self._taken("device.stream"),
            correlation=self._taken("device.correlation"),
            external=self._taken("device.external"),
            bytes=self._taken("device.bytes"),
            collective=self._taken("device.collective", np.int32),
            dtype=self._taken("device.dtype", np.int32),
            elements=self._taken("device.elements"),
            members=self._taken("device.members"),
        )

    def memory(self) -> MemoryReadings:
        """The allocator's state, in time order."""
        time = self._taken("memory.time") - self.origin_ns
        order = np.argsort(time, kind="stable")
        return MemoryReadings(
            time[order], *(self._taken(f"memory.{name}")[order] for name in ("device", "allocated", "reserved"))
        )

    def _taken(self, name: str, dtype: npt.DTypeLike = np.int64) -> npt.NDArray[Any]:
        column = self._columns.pop(name, None)
        return column.take() if column is not None else np.empty(0, dtype=dtype)

    def _taken_host(self, table: str) -> tuple[Ints, Ints, Any, Any]:
        start, end = self._taken(f"{table}.start"), self._taken(f"{table}.end")
        start -= self.origin_ns
        end -= self.origin_ns
        return start, end, self._taken(f"{table}.name", np.int32), self._taken(f"{table}.track", np.int32)
