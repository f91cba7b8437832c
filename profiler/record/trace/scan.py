"""The quick way from text to columns, in C where that could be built.

In:  text of an array of events.
Out: `Scanned`, from which `rows_of` makes `Rows`; its odd events are left to msgspec, as is all of the text where the
quick way does not know what it holds. Where the C module is missing (no compiler at installation, or
`PROF_PURE_PYTHON=1`) msgspec reads everything.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from profiler.record.trace.event import UNREADABLE
from profiler.record.trace.numbers import NOT_SAID, TABLES, Numbers, detail_of, table_of
from profiler.record.trace.recording import Ints
from profiler.record.trace.rows import COLUMNS, DTYPES, Rows, Values
from profiler.record.trace.shapes import ALSO_VALUES, as_given

_COLUMNS = (  # of a row, as in `_scan.c`
    *("kind", "start", "length", "name", "process", "thread", "correlation", "external", "device", "stream", "bytes"),
    *("index", "elements", "members", "own", "caller", "collective", "dtype", "frame"),
    *("dims", "dims_end", "types", "types_end", "values", "values_end"),
)
_ABSENT = np.iinfo(np.int64).min  # of a stream and a device
_string = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was read of a piece of text."""

    text: bytes
    rows: npt.NDArray[np.int64]  # a row for each event with a length
    seen: int  # events of any kind, but for the odd ones
    odd: list[bytes]  # texts of events that are left to msgspec

    def __len__(self) -> int:
        return self.seen


def _compiled() -> Any:
    """The C function, or None."""
    if os.environ.get("PROF_PURE_PYTHON", "") not in ("", "0"):
        return None
    try:
        return importlib.import_module("._scan", __package__).scan
    except ImportError:
        return None


_scan: Callable[..., Any] | None = _compiled()


PIECE_BYTES = (64 if _scan is None else 256) << 10  # msgspec decodes larger pieces a fifth more slowly


def scan(text: bytes, numbers: Numbers) -> Scanned | None:
    """Read an array of events; None where the quick way can't."""
    if _scan is None:
        return None
    found = _scan(text, numbers.kinds, numbers.names, numbers.functions, numbers.said, numbers.stacks, _unescaped)
    if found is None:
        return None
    rows, seen, odd = found
    return Scanned(text, np.frombuffer(rows, dtype=np.int64).reshape(-1, len(_COLUMNS)), seen - len(odd), odd)


def _unescaped(quoted: bytes) -> str:
    """Raises ValueError."""
    try:
        return _string.decode(quoted)
    except UNREADABLE as error:
        raise ValueError(str(error)) from None


def rows_of(scanned: Scanned, numbers: Numbers) -> Iterator[Rows]:
    """The events by table."""
    tables = table_of(scanned.rows[:, 0])
    for which in np.unique(tables).tolist():
        cells = _Cells(scanned.text, scanned.rows[tables == which], numbers)
        yield Rows(
            TABLES[which],
            cells.raw("start").view(np.float64),
            cells.raw("length").view(np.float64),
            {
                name: cells.column(name).astype(DTYPES.get(name, np.int64), copy=False)
                for name in COLUMNS.get(TABLES[which], ())
            },
        )


class _Cells:
    """Rows of one table."""

    def __init__(self, text: bytes, rows: npt.NDArray[np.int64], numbers: Numbers) -> None:
        self._text, self._rows, self._numbers = text, rows, numbers

    def raw(self, name: str) -> Ints:
        """As it was read."""
        return np.ascontiguousarray(self._rows[:, _COLUMNS.index(name)])

    def column(self, name: str) -> Values:
        """One of `COLUMNS`."""
        make = _MADE.get(name)
        return make(self) if make is not None else self.raw(name)

    def details(self) -> Ints:
        return detail_of(self.raw("kind"))

    def tracks(self) -> npt.NDArray[np.int32]:
        return self._numbers.tracks.of(self.raw("process"), self.raw("thread"))

    def devices(self) -> Ints:
        said = self.raw("device")
        return np.where(said == _ABSENT, self.raw("process"), said)

    def streams(self) -> Ints:
        said = self.raw("stream")
        return np.where(said == _ABSENT, self.raw("thread"), said)

    def given(self) -> npt.NDArray[np.int32]:
        told = self._numbers.names.told_by(self.raw("name").astype(np.int32))
        found = np.full(len(told), NOT_SAID, dtype=np.int32)
        places = np.flatnonzero(told)
        if not len(places):
            return found
        text, shapes = self._text, self._numbers.shapes
        spans = self._rows[places, _COLUMNS.index("dims") :]
        spans[told[places] != ALSO_VALUES, -1] = spans[told[places] != ALSO_VALUES, -2]
        found[places] = [
            shapes[as_given(text[dims:dims_end], text[types:types_end], text[values:values_end])]
            for dims, dims_end, types, types_end, values, values_end in spans.tolist()
        ]
        return found


_MADE: dict[str, Callable[[_Cells], Values]] = {
    "marked": _Cells.details,
    "work": _Cells.details,
    "track": _Cells.tracks,
    "device": _Cells.devices,
    "stream": _Cells.streams,
    "given": _Cells.given,
}
