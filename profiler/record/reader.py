"""Read a run folder: tape segments, notes, and what the launcher and the processes wrote of themselves.

In:  a run folder, possibly torn, truncated or with foreign files in it.
Out: events as numpy arrays of shape (n, 2) and dtype uint64 (code, value), notes and JSON objects as dicts.
Damaged parts are skipped; what was skipped is told in notices.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.record import layout
from profiler.record.vocabulary import EVENT_BYTES, HEADER_BYTES, TAPE_MAGIC, Kind

Events = npt.NDArray[np.uint64]

_HEADER = struct.Struct("<8sIIIIQQ")
_FIRST_READ_BYTES = 1 << 16  # most short-lived workers write less: their zero tail is not read
_TIMED = (Kind.PUSH, Kind.POP, Kind.MARK, Kind.SAMPLE, Kind.PAUSE)
_CLOCK_SLACK_NS = 10**9
_LONGEST_SEGMENT_NS = 400 * 24 * 3600 * 10**9

NO_EVENTS: Events = np.empty((0, 2), dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Header:
    """The head of a tape segment."""

    pid: int
    thread_id: int
    seq: int
    created_perf_ns: int
    created_unix_ns: int


def read_header(path: Path) -> Header | None:
    """The header of a segment; None where the file is not one."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError:
        return None
    if len(head) < HEADER_BYTES or not head.startswith(TAPE_MAGIC):
        return None
    _, pid, thread_id, seq, _, perf_ns, unix_ns = _HEADER.unpack_from(head)
    return Header(pid, thread_id, seq, perf_ns, unix_ns)


def read_segment(path: Path) -> tuple[Events, str | None]:
    """The good events of a segment, and what was wrong with it (None: nothing)."""
    header = read_header(path)
    if header is None:
        return NO_EVENTS, f"{path.name} is not a readable tape segment and was skipped"
    try:
        events = _read_events(path)
    except OSError as error:
        return NO_EVENTS, f"{path.name} could not be read ({error.strerror}) and was skipped"
    if len(events) and events[-1, 1] == 0 and int(events[-1, 0]) & 0xFF in _TIMED:
        events = events[:-1]  # torn: the writer was stopped between its two words
    good = _plausible(events, header)
    if good is None:
        return events, None
    dropped = len(events) - int(np.count_nonzero(good))
    return events[good], f"{path.name} holds {dropped} damaged events, which were skipped"


def _read_events(path: Path) -> Events:
    """Events up to the unwritten rest; slots that were taken and never filled are skipped."""
    total = (path.stat().st_size - HEADER_BYTES) // EVENT_BYTES
    first = min(total, _FIRST_READ_BYTES // EVENT_BYTES)
    events = np.fromfile(path, dtype="<u8", count=first * 2, offset=HEADER_BYTES).reshape(-1, 2)
    if total > first and bool(events[-4:, 0].any()):
        events = np.fromfile(path, dtype="<u8", count=total * 2, offset=HEADER_BYTES).reshape(-1, 2)
    filled = events[:, 0] != 0
    if bool(filled.all()):
        return events
    count = int(np.count_nonzero(filled))
    return events[:count] if bool(filled[:count].all()) else events[filled]


def _plausible(events: Events, header: Header) -> npt.NDArray[np.bool_] | None:
    """Which events are good; None when all are.

    Times are held against the time in the header, unless most of them were taken by another clock than it was.
    """
    kind = (events[:, 0] & np.uint64(0xFF)).astype(np.uint8)
    timed = kind != Kind.VALUE
    value = events[:, 1]
    good = (kind >= Kind.PUSH) & (kind <= Kind.PAUSE) & (~timed | (value > 0))
    earliest = np.uint64(max(header.created_perf_ns - _CLOCK_SLACK_NS, 0))
    latest = np.uint64(header.created_perf_ns + _LONGEST_SEGMENT_NS)
    early_or_late = timed & ((value < earliest) | (value > latest))
    if 2 * int(np.count_nonzero(early_or_late)) < len(events):
        good &= ~early_or_late
    return None if bool(good.all()) else good


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a stream: an event's number within a segment."""

    seq: int = 0
    offset: int = 0


@dataclass(slots=True)
class Stream:
    """One stream read forward, segment by segment, from a cursor.

    A gap in the numbering is a *break*: events before and after it do not belong together.
    """

    name: str
    segments: Sequence[Path]
    cursor: Cursor = field(default_factory=Cursor)
    notices: list[str] = field(default_factory=list)
    _loaded: list[tuple[int, Events]] = field(default_factory=list)
    _next: int = 0
    _expected: int = 0

    def __post_init__(self) -> None:
        self._expected = self.cursor.seq
        self._next = sum(layout.tape_seq(path) < self.cursor.seq for path in self.segments)

    def peek(self, count: int) -> tuple[Events, bool]:
        """Up to `count` events from the cursor, and whether a break follows directly after them."""
        have = self._available()
        while have < count and self._load():
            have = self._available()
        parts: list[Events] = []
        left = count
        for place, (seq, events) in enumerate(self._loaded):
            if place and seq != self._loaded[place - 1][0] + 1:
                return _joined(parts), True
            start = self.cursor.offset if place == 0 else 0
            part = events[start : start + left]
            parts.append(part)
            left -= len(part)
            if left <= 0:
                break
        return _joined(parts), False

    def advance(self, count: int) -> None:
        """Move the cursor over `count` events that `peek` returned."""
        while len(self._loaded) > 1 and self._loaded[1][0] == self._loaded[0][0] + 1:
            rest = len(self._loaded[0][1]) - self.cursor.offset
            if count < rest:
                break
            count -= rest
            self._loaded.pop(0)
            self.cursor = Cursor(self._loaded[0][0], 0)
        self.cursor = Cursor(self.cursor.seq, self.cursor.offset + count)

    def skip_break(self) -> int:
        """Go to the first segment after the break; the number of segments that are missing."""
        first = self._loaded.pop(0)[0]
        self.cursor = Cursor(self._loaded[0][0], 0)
        return self._loaded[0][0] - first - 1

    def _available(self) -> int:
        return sum(len(events) for _, events in self._loaded) - self.cursor.offset if self._loaded else 0

    def _load(self) -> bool:
        if self._next >= len(self.segments):
            return False
        path = self.segments[self._next]
        self._next += 1
        seq = layout.tape_seq(path)
        events, notice = read_segment(path)
        if notice:
            self.notices.append(notice)
        if not self._loaded and seq != self.cursor.seq:
            if seq > self._expected:
                self._loaded.append((self._expected - 1, NO_EVENTS))  # the break before what is left
            self.cursor = Cursor(self._loaded[0][0] if self._loaded else seq, 0)
        self._loaded.append((seq, events))
        self._expected = seq + 1
        return True


def _joined(parts: list[Events]) -> Events:
    if not parts:
        return NO_EVENTS
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_stream(directory: Path, stream: str) -> Events:
    """All good events of a stream, with breaks closed up. For tests and small tools."""
    segments = layout.tapes(directory).get(stream, [])
    return _joined([read_segment(path)[0] for path in segments])


def read_notes(directory: Path) -> tuple[list[dict[str, Any]], int]:
    """The notes of a training process in order, and the number of lines that could not be read.

    A torn last line is the normal trace of a killed process and is not counted.
    """
    try:
        lines = (directory / layout.NOTES).read_bytes().split(b"\n")
    except OSError:
        return [], 0
    notes: list[dict[str, Any]] = []
    damaged = 0
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            note = json.loads(line)
        except ValueError:
            damaged += number < len(lines) - 1
            continue
        if isinstance(note, dict) and isinstance(note.get("kind"), str):
            notes.append(note)
        else:
            damaged += 1
    return notes, damaged


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is none to be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_processes(run: Path) -> dict[int, dict[str, Any]]:
    """What every Python under the run said of itself, by pid."""
    found: dict[int, dict[str, Any]] = {}
    for path in sorted((run / layout.PROCESSES).glob("*.json")):
        value = read_json(path)
        if value is not None and isinstance(value.get("pid"), int):
            found[value["pid"]] = value
    return found


def of_kind(notes: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The notes of one kind, in order."""
    return [note for note in notes if note["kind"] == kind]
