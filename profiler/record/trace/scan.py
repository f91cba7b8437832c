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
from profiler.record.trace.numbers import TABLES, Numbers, detail_of, table_of
from profiler.record.trace.rows import COLUMNS, DTYPES, Rows

_COLUMNS = (  # of a row, as in `_scan.c`
    *("kind", "start", "length", "name", "track", "correlation", "external", "device", "stream", "bytes", "index"),
    *("elements", "members", "own", "caller", "collective", "dtype", "frame", "given"),
)
_string = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was read of a piece of text."""

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
    names = numbers.names
    found = _scan(
        *(text, numbers.kinds, names, numbers.functions, numbers.said, numbers.stacks, numbers.shapes),
        *(names.told, numbers.tracks.number, _unescaped),
    )
    if found is None:
        return None
    rows, seen, odd = found
    return Scanned(np.frombuffer(rows, dtype=np.int64).reshape(-1, len(_COLUMNS)), seen - len(odd), odd)


def _unescaped(quoted: bytes) -> str:
    """Raises ValueError."""
    try:
        return _string.decode(quoted)
    except UNREADABLE as error:
        raise ValueError(str(error)) from None


def rows_of(scanned: Scanned) -> Iterator[Rows]:
    """The events by table."""
    tables = table_of(scanned.rows[:, 0])
    for which in np.unique(tables).tolist():
        rows = scanned.rows[tables == which].T
        given = dict(zip(_COLUMNS, rows, strict=True))
        given["marked"] = given["work"] = detail_of(given["kind"])
        columns = {name: given[name].astype(DTYPES.get(name, np.int64)) for name in COLUMNS.get(TABLES[which], ())}
        start, length = (np.ascontiguousarray(given[name]).view(np.float64) for name in ("start", "length"))
        yield Rows(TABLES[which], start, length, columns)
