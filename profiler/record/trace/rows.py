"""Events of one table, by column.

In:  decoded events.
Out: `Rows`. What is missing or no number is -1.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.record.trace.event import Args, Event
from profiler.record.trace.numbers import (
    CALLS,
    DEVICE,
    NOT_SAID,
    OPERATORS,
    PYTHON,
    TABLES,
    Numbers,
    detail_of,
    table_of,
)
from profiler.record.trace.recording import Ints
from profiler.record.trace.shapes import ALSO_VALUES, as_given

Values = npt.NDArray[Any]
HOST = ("name", "track")
COLUMNS = {  # of each table, as they are kept; `index` is counted and not kept
    OPERATORS: (*HOST, "external", "marked", "given", "frame", "index"),
    CALLS: (*HOST, "correlation", "bytes"),
    DEVICE: (
        *(*HOST, "work", "device", "stream", "correlation", "external", "bytes"),
        *("collective", "dtype", "elements", "members"),
    ),
    PYTHON: (*HOST, "own", "caller", "index"),
}
DTYPES: dict[str, npt.DTypeLike] = {
    **dict.fromkeys(("name", "track", "given", "frame", "device", "collective", "dtype"), np.int32),
    "marked": np.bool_,
    "work": np.int8,
}
_PAST = 1 << 63
_NOTHING = Args()


@dataclass(frozen=True, slots=True)
class Rows:
    """Events of one table. Times are microseconds, NaN where there is none."""

    table: str  # one of `TABLES`
    start: npt.NDArray[np.float64]
    length: npt.NDArray[np.float64]
    columns: dict[str, Values]  # those of `COLUMNS`

    def where(self, chosen: npt.NDArray[np.bool_]) -> Rows:
        """Some of them."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return Rows(self.table, self.start[chosen], self.length[chosen], columns)


def rows_of_events(events: Sequence[Event], numbers: Numbers) -> Iterator[Rows]:
    """Events with a length, by table."""
    timed = [event for event in events if event.ph == "X"]
    kinds = np.array([numbers.kinds[event.cat] for event in timed], dtype=np.int64)
    tables = table_of(kinds)
    for which in np.unique(tables).tolist():
        places = np.flatnonzero(tables == which)
        of_table = [timed[place] for place in places.tolist()]
        said = _Events(of_table, kinds[places], numbers)
        yield Rows(
            TABLES[which],
            np.array([event.ts for event in of_table], dtype=np.float64),
            np.array([event.dur for event in of_table], dtype=np.float64),
            {
                name: np.asarray(said.column(name), dtype=DTYPES.get(name, np.int64))
                for name in COLUMNS.get(TABLES[which], ())
            },
        )


class _Events:
    """What events of one table say."""

    def __init__(self, events: list[Event], kinds: Ints, numbers: Numbers) -> None:
        self._events, self._kinds, self._numbers = events, kinds, numbers
        self._args = [event.args or _NOTHING for event in events]
        self._both = list(zip(self._args, events, strict=True))

    def column(self, name: str) -> Values | list[int]:
        """One of `COLUMNS`."""
        make = _MADE.get(name)
        return make(self) if make is not None else whole_numbers(getattr(arg, name) for arg in self._args)

    def names(self) -> list[int]:
        in_python = TABLES[table_of(self._kinds)[0]] == PYTHON
        table = self._numbers.functions if in_python else self._numbers.names
        return [table[event.name] for event in self._events]

    def tracks(self) -> list[int]:
        tracks = self._numbers.tracks
        return [tracks[event.pid][event.tid] for event in self._events]

    def details(self) -> Ints:
        return detail_of(self._kinds)

    def devices(self) -> Ints:
        return whole_numbers(_first(arg.device, event.pid) for arg, event in self._both)

    def streams(self) -> Ints:
        return whole_numbers(_first(arg.stream, _stream_of(event)) for arg, event in self._both)

    def given(self) -> list[int]:
        told = self._numbers.names.told
        return [self._given(told[name], arg) for name, arg in zip(self.names(), self._args, strict=True)]

    def _given(self, told: int, arg: Args) -> int:
        if not told:
            return NOT_SAID
        values = arg.values if told == ALSO_VALUES else b""
        return self._numbers.shapes[as_given(arg.dims or arg.dims_2021, arg.types, values)]

    def collectives(self) -> list[int]:
        return [self._numbers.said[arg.collective] for arg in self._args]

    def dtypes(self) -> list[int]:
        return [self._numbers.said[arg.dtype] for arg in self._args]

    def frames(self) -> list[int]:
        return [self._numbers.stacks[arg.stack] for arg in self._args]

    def external(self) -> Ints:
        return whole_numbers(_first(arg.external, arg.external_2021) for arg in self._args)

    def indices(self) -> Ints:
        return indices_of(self._args)

    def sizes(self) -> Ints:
        return whole_numbers(_first(arg.bytes, arg.size) for arg in self._args)

    def own(self) -> Ints:
        return whole_numbers(arg.python for arg in self._args)

    def callers(self) -> Ints:
        return whole_numbers(arg.python_parent for arg in self._args)


_MADE: dict[str, Callable[[_Events], Values | list[int]]] = {
    "name": _Events.names,
    "track": _Events.tracks,
    "marked": _Events.details,
    "work": _Events.details,
    "device": _Events.devices,
    "stream": _Events.streams,
    "given": _Events.given,
    "collective": _Events.collectives,
    "dtype": _Events.dtypes,
    "frame": _Events.frames,
    "external": _Events.external,
    "index": _Events.indices,
    "bytes": _Events.sizes,
    "own": _Events.own,
    "caller": _Events.callers,
}


def indices_of(args: Sequence[Args]) -> Ints:
    """The numbers that the host's events are given, under either of their names."""
    return whole_numbers(_first(arg.index, arg.index_2022) for arg in args)


def whole_numbers(values: Iterable[Any]) -> Ints:
    """Numbers as they stand in events: integers, floats or strings of either."""
    given = [NOT_SAID if value is None else value for value in values]
    with contextlib.suppress(TypeError, OverflowError):  # where not all of them are integers
        return np.frombuffer(array("q", given), dtype=np.int64)
    return np.fromiter(map(_whole, given), dtype=np.int64, count=len(given))


def _first(value: object, other: object) -> object:
    return other if value is None else value


def _stream_of(event: Event) -> object:
    """2021's tracks are called "stream 7"."""
    thread = event.tid
    return thread.removeprefix("stream ") if isinstance(thread, str) else thread


def _whole(value: object) -> int:
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            return NOT_SAID
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) else NOT_SAID
    return value if isinstance(value, int) and -_PAST <= value < _PAST else NOT_SAID
