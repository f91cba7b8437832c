"""What several processes have read of one trace, put together in the order of the file.

In:  `Part`s, each what one process has read of a stretch of the file.
Out: the columns of one collector.

Each process numbers names, tracks and arguments for itself, and says with a part which ones are new. Which calls of
Python's are of the user's is told in the order of the file: their callers may stand in another process's part.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from profiler.record.trace.collect import NO_INDEX, Collector
from profiler.record.trace.columns import ABSENT
from profiler.record.trace.recording import Ints, Track

Values = npt.NDArray[Any]
_Key = TypeVar("_Key")
_NAMES, _TRACKS, _GIVEN = "names", "tracks", "given"
_NUMBERED = {
    **dict.fromkeys(("operators.name", "calls.name", "device.name", "python.name"), _NAMES),
    **dict.fromkeys(("operators.frame", "device.collective", "device.dtype"), _NAMES),
    **dict.fromkeys(("operators.track", "calls.track", "device.track", "python.track"), _TRACKS),
    "operators.given": _GIVEN,
}


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the file."""

    columns: dict[str, Values]
    names: list[str]  # new ones, in the order of their numbers, as are the next two
    tracks: list[Track]
    given: list[tuple[bytes, bytes, bytes]]
    kept: int
    damaged: int
    far: int
    span: tuple[int, int]
    index: tuple[int, int, int]


@dataclass(slots=True)
class Numbers:
    """What one process's numbers are in the collector that puts the parts together."""

    ours: dict[str, npt.NDArray[np.int32]]  # the last one is that of -1, which is none

    def extend(self, kind: str, new: list[int]) -> None:
        """The next numbers of that process."""
        if new:
            self.ours[kind] = np.concatenate((self.ours[kind][:-1], np.array([*new, ABSENT], dtype=np.int32)))

    def translated(self, column: str, values: Values) -> Values:
        """A column in our numbers."""
        kind = _NUMBERED.get(column)
        return values if kind is None else self.ours[kind][values]


class JoinedCollector(Collector):
    """A collector whose copies in other processes read parts for it."""

    def __init__(self) -> None:
        super().__init__()
        self._reads_part = False
        self._sent = (0, 0, 0)

    def numbers(self) -> Numbers:
        """Of a copy that is made now."""
        counts = zip((_NAMES, _TRACKS, _GIVEN), self._counts(), strict=True)
        return Numbers({kind: np.array([*range(count), ABSENT], dtype=np.int32) for kind, count in counts})

    def take_part(self) -> Part:
        """In a copy: what it has read since the last time, or since it was made."""
        self._reads_part = True
        names, tracks, given = self._counts()
        part = Part(
            columns={name: column.take() for name, column in self._columns.items()},
            names=_newest(self.names.known, names - self._sent[0]),
            tracks=_newest(self.tracks.known, tracks - self._sent[1]),
            given=_newest(self.shapes, given - self._sent[2]),
            kept=self.kept,
            damaged=self.damaged,
            far=self.far,
            span=(self._first, self._last),
            index=self._index,
        )
        self._sent = names, tracks, given
        self._columns.clear()
        self.kept = self.damaged = self.far = 0
        self._index = NO_INDEX
        return part

    def add_part(self, part: Part, numbers: Numbers) -> None:
        """Append what a copy has read."""
        numbers.extend(_NAMES, [self.names[name] for name in part.names])
        numbers.extend(_TRACKS, [self.tracks[track.process][track.thread] for track in part.tracks])
        numbers.extend(_GIVEN, [self.shapes[key] for key in part.given])
        columns = {name: numbers.translated(name, values) for name, values in part.columns.items()}
        python = {name: columns.pop(name) for name in list(columns) if name.startswith("python.")}
        if python:
            rows = {name.removeprefix("python."): values for name, values in python.items()}
            own, caller = rows.pop("own"), rows.pop("caller")
            columns |= {f"python.{name}": values for name, values in self._of_users(rows, own, caller).items()}
        for name, values in columns.items():
            self._add(name, values, values.dtype)
        self.kept += part.kept
        self.damaged += part.damaged
        self.far += part.far
        self._first, self._last = min(self._first, part.span[0]), max(self._last, part.span[1])
        seen, lowest, highest = self._index
        self._index = seen + part.index[0], min(lowest, part.index[1]), max(highest, part.index[2])

    def _of_users(self, rows: dict[str, Values], own: Ints, caller: Ints) -> dict[str, Values]:
        if self._reads_part:
            return {**rows, "own": own, "caller": caller}
        return super()._of_users(rows, own, caller)

    def _counts(self) -> tuple[int, int, int]:
        return len(self.names.known), len(self.tracks.known), len(self.shapes)


def _newest(known: dict[_Key, int], count: int) -> list[_Key]:
    """The last ones, in their order."""
    return list(islice(reversed(known), count))[::-1]
