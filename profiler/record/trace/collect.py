"""Sort events by what they are, and append them to columns.

In:  lists of decoded events.
Out: the columns of a `Recording`. Categories are told by what Kineto calls them since 2021; unknown
ones count for the span alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.record.trace.columns import (
    ABSENT,
    LONGEST_US,
    Column,
    Names,
    Tracks,
    changes_of,
    first_said,
    floats,
    nanoseconds,
    numbered,
    whole_numbers,
)
from profiler.record.trace.event import Args, Event
from profiler.record.trace.python import Functions, Numbered, Stacks
from profiler.record.trace.recording import (
    Calls,
    DeviceEvents,
    Ints,
    MemoryReadings,
    Numbering,
    Operators,
    PythonCalls,
    Work,
)
from profiler.record.trace.shapes import Shapes, Told

_RANGE = "user_annotation"
_OPERATORS = ("cpu_op", "Operator", _RANGE)
_WORK = {
    "kernel": Work.KERNEL,
    "Kernel": Work.KERNEL,
    "hpu_op": Work.KERNEL,
    "mtia_ccp_events": Work.KERNEL,
    "gpu_memcpy": Work.COPY,
    "Memcpy": Work.COPY,
    "gpu_memset": Work.SET,
    "Memset": Work.SET,
}
_PYTHON = "python_function"
_LEFT_OUT = "Trace"  # the recording itself as an event
_MEMORY = "[memory]"
_ACCELERATORS = frozenset(range(1, 64))  # device types of c10: 0 is the CPU
_NOTHING = Args()
NO_INDEX = (0, 1 << 62, -1)  # numbers of host events: seen, lowest, highest
_LATEST_US = 2.0**62 / 1000
FARTHEST_US = 86_400e6  # an event a day away from the others has no time that can be believed


def is_runtime(category: str) -> bool:
    """Whether a category holds calls of a device's runtime or driver, of any maker."""
    return category == "Runtime" or category.endswith(("_runtime", "_driver"))


class _Tables(dict[Any, Callable[[Event], None]]):
    """For each category what takes its events: the list of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.lists: dict[str, list[Event]] = {}  # in the order in which their first event came

    def __missing__(self, category: object) -> Callable[[Event], None]:
        take = self[category] = self.lists.setdefault(_table_of(category), []).append
        return take

    def take(self) -> dict[str, list[Event]]:
        """What was taken since the last time."""
        taken = {table: found for table, found in self.lists.items() if found}
        self.clear()
        self.lists = {}
        return taken


def _table_of(category: object) -> str:
    """Where events of a category go; "" for those that count for the span alone."""
    if category in _OPERATORS:
        return "operators"
    if category in _WORK:
        return "device"
    if category in (_PYTHON, _LEFT_OUT):
        return str(category)
    return "calls" if isinstance(category, str) and is_runtime(category) else ""


class Collector:
    """Takes events piece by piece; `recorded` parts are on the trace's own clock less `origin`."""

    def __init__(self) -> None:
        self.names = Names()
        self._tables = _Tables()
        self._functions = Functions(self.names)
        self._stacks = Stacks(self.names)
        self._users = Numbered()
        self.shapes = Shapes()
        self._told = Told()
        self.tracks = Tracks()
        self.kept = 0
        self.damaged = 0  # without a time that can be believed
        self.far = 0  # more than a day away from the others
        self._reference_us: float | None = None
        self._first, self._last = 1 << 62, -(1 << 62)
        self._columns: dict[str, Column] = {}
        self._index = NO_INDEX

    def add(self, events: Sequence[Event]) -> None:
        """Append a piece."""
        tables = self._tables
        others: list[Event] = []
        for event in events:
            if event.ph == "X":
                tables[event.cat](event)
            else:
                others.append(event)
        found = tables.take()
        found.pop(_LEFT_OUT, None)
        for table, of_table in found.items():
            timed = self._timed(of_table)
            if timed is not None:
                self._sort(table, *timed)
        self._take_readings([event for event in others if event.name == _MEMORY])

    def _timed(self, events: list[Event]) -> tuple[list[Event], Ints, Ints] | None:
        """The events whose time can be believed, with their start and end in ns."""
        start, length = floats([event.ts for event in events]), floats([event.dur for event in events])
        good = (np.abs(start) < _LATEST_US) & (length >= 0) & (length < LONGEST_US)
        if self._reference_us is None and bool(good.any()):
            self._reference_us = float(np.median(start[good]))
        near = good & (np.abs(start - (self._reference_us or 0.0)) < FARTHEST_US)
        self.damaged += int(np.count_nonzero(~good))
        self.far += int(np.count_nonzero(good & ~near))
        if not bool(near.all()):
            events = [event for event, fine in zip(events, near.tolist(), strict=True) if fine]
            start, length = start[near], length[near]
        if not events:
            return None
        begins = nanoseconds(start)
        ends = begins + np.rint(length * 1000).astype(np.int64)
        self.kept += len(events)
        self._first = min(self._first, int(begins.min()))
        self._last = max(self._last, int(ends.max()))
        return events, begins, ends

    def _sort(self, table: str, events: list[Event], start: Ints, end: Ints) -> None:
        args = [event.args or _NOTHING for event in events]
        if table == "operators":
            self._count_indices(args)
            self._host(table, events, start, end)
            self._add("operators.external", _external(args))
            self._add("operators.marked", np.array([event.cat == _RANGE for event in events]), np.bool_)
            self._add("operators.given", self._given(events, args), np.int32)
            self._add("operators.frame", self._frames([arg.stack for arg in args]), np.int32)
        elif table == "device":
            self._device(args, events, start, end)
        elif table == "calls":
            self._host(table, events, start, end)
            self._add("calls.correlation", whole_numbers([arg.correlation for arg in args]))
            self._add(
                "calls.bytes",
                whole_numbers(first_said([arg.bytes for arg in args], lambda: [arg.size for arg in args])),
            )
        elif table == _PYTHON:
            self._count_indices(args)
            self._python(args, events, start, end)

    def _host(self, table: str, events: list[Event], start: Ints, end: Ints) -> None:
        names = self.names
        self._add(f"{table}.start", start)
        self._add(f"{table}.end", end)
        self._add(f"{table}.name", numbered([names[event.name] for event in events]), np.int32)
        self._add(f"{table}.track", self._tracks_of(events), np.int32)

    def _tracks_of(self, events: list[Event]) -> npt.NDArray[np.int32]:
        """Neighbours are mostly of one track: only where it changes is its number looked up."""
        processes, threads = [event.pid for event in events], [event.tid for event in events]
        tracks = self.tracks
        changes = changes_of(processes, threads)
        if changes is None:
            pairs = zip(processes, threads, strict=True)
            return numbered([tracks[process][thread] for process, thread in pairs])
        numbers = numbered([tracks[processes[at]][threads[at]] for at in changes.tolist()])
        return np.repeat(numbers, np.diff(changes, append=len(events)))

    def _device(self, args: list[Args], events: list[Event], start: Ints, end: Ints) -> None:
        self._host("device", events, start, end)
        device = first_said([arg.device for arg in args], lambda: [event.pid for event in events])
        stream = first_said([arg.stream for arg in args], lambda: [_stream(event) for event in events])
        columns: dict[str, tuple[npt.NDArray[Any], npt.DTypeLike]] = {
            "work": (np.array([_WORK[event.cat or ""] for event in events], dtype=np.int8), np.int8),
            "device": (whole_numbers(device), np.int32),
            "stream": (whole_numbers(stream), np.int64),
            "correlation": (whole_numbers([arg.correlation for arg in args]), np.int64),
            "external": (_external(args), np.int64),
            "bytes": (whole_numbers([arg.bytes for arg in args]), np.int64),
            "collective": (self._said([arg.collective for arg in args]), np.int32),
            "dtype": (self._said([arg.dtype for arg in args]), np.int32),
            "elements": (whole_numbers([arg.elements for arg in args]), np.int64),
            "members": (whole_numbers([arg.members for arg in args]), np.int64),
        }
        for name, (values, dtype) in columns.items():
            self._add(f"device.{name}", values, dtype)

    def _given(self, events: list[Event], args: list[Args]) -> npt.NDArray[np.int32]:
        """Numbers of what operators were given."""
        found = np.full(len(events), ABSENT, dtype=np.int32)
        told = self._told
        for at in [at for at, event in enumerate(events) if told[event.name]]:
            arg = args[at]
            found[at] = self.shapes.number(str(events[at].name), arg.dims or arg.dims_2021, arg.types, arg.values)
        return found

    def _frames(self, stacks: list[Any]) -> npt.NDArray[np.int32]:
        """The user's frames in call stacks."""
        if not any(stacks):
            return np.full(len(stacks), ABSENT, dtype=np.int32)
        return np.array([self._stacks[it] if isinstance(it, str) else ABSENT for it in stacks], dtype=np.int32)

    def _python(self, args: list[Args], events: list[Event], start: Ints, end: Ints) -> None:
        """The user's functions and what they call: the rest lies within those. Callers come first."""
        number = np.array([self._functions.number(event.name) for event in events], dtype=np.int64)
        users = number >= 0
        rows: dict[str, npt.NDArray[Any]] = {
            "start": start,
            "end": end,
            "name": np.where(users, number, -1 - number).astype(np.int32),
            "track": self._tracks_of(events),
            "users": users,
        }
        own, caller = whole_numbers([arg.python for arg in args]), whole_numbers([arg.python_parent for arg in args])
        for name, values in self._of_users(rows, own, caller).items():
            self._add(f"python.{name}", values, values.dtype)

    def _of_users(self, rows: dict[str, npt.NDArray[Any]], own: Ints, caller: Ints) -> dict[str, npt.NDArray[Any]]:
        """Those rows that are kept, by the numbers of the calls and of what called them."""
        users = rows["users"]
        self._users.add(own[users])
        kept = users | self._users.holds(caller)
        return {name: values[kept] for name, values in rows.items()}

    def _said(self, words: list[Any]) -> npt.NDArray[np.int32]:
        """Numbers of names that few events say."""
        if not any(words):
            return np.full(len(words), ABSENT, dtype=np.int32)
        return np.array([self.names[str(word)] if word else ABSENT for word in words], dtype=np.int32)

    def _count_indices(self, args: list[Args]) -> None:
        numbers = whole_numbers(first_said([arg.index for arg in args], lambda: [arg.index_2022 for arg in args]))
        numbers = numbers[numbers >= 0]
        if len(numbers):
            seen, lowest, highest = self._index
            self._index = (seen + len(numbers), min(lowest, int(numbers.min())), max(highest, int(numbers.max())))

    def _take_readings(self, events: list[Event]) -> None:
        """The allocator's state on accelerators."""
        if not events:
            return
        args = [event.args or _NOTHING for event in events]
        self._count_indices(args)
        time = floats([event.ts for event in events])
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


def _external(args: list[Args]) -> Ints:
    return whole_numbers(first_said([arg.external for arg in args], lambda: [arg.external_2021 for arg in args]))


def _stream(event: Event) -> object:
    """2021's tracks are called "stream 7"."""
    thread = event.tid
    return thread.removeprefix("stream ") if isinstance(thread, str) else thread
