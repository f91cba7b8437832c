"""From text to events, a bounded piece at a time.

In:  the blocks of a `Source`.
Out: pieces, scanned or as lists of events; what stands before and after them (`Document.head`, `.tail`), and what
     could not be read.

A piece ends between two objects of the array of events. It is read as a whole, by the quick way or by msgspec; only
where both fail is it looked at more closely: numbers that are none (NaN, Infinity), the end of the array, objects that
are damaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from profiler.errors import ProfError
from profiler.record.trace.event import UNREADABLE, Event, decode_all, decode_object, decode_one, texts_of
from profiler.record.trace.scan import Scanned

Piece = Scanned | list[Event]
Scan = Callable[[bytes], Scanned | None]  # the quick way

MOST_PENDING_BYTES = 64 << 20  # of text in which no event ends
_BATCH = 2000  # events: more no longer lie near the processor, of fewer the columns' own cost counts
_MOST_PIECES = 16
_MOST_JOINED = 64  # pieces of one object that looked like several
_MOST_JOINED_BYTES = 1 << 20
_MOST_ENDS = 64  # places that look like the end of the array
_MOST_LOOKED_AT = 4096  # braces, from the end of a piece, in search of its last event
_WIDEST_GAP = 256  # white space between two events
_BEGINS = re.compile(rb'"traceEvents"\s*:\s*\[')
_ENDS = re.compile(rb"\}\s*\]")
_BETWEEN = re.compile(rb"(?<=\})\s*,\s*(?=\{)")
_ESCAPE = re.compile(rb'\\(?!["\\/bfnrtu])')
_CONTROL = re.compile(rb"[\x00-\x1f]")
_EVENT = re.compile(rb'\{\s*"(?:ph|cat|name|pid|tid|ts|dur|args|id)"')
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_NO_NUMBER = re.compile(rb"(?<=[:,\[\s])-?(?:Infinity|NaN|inf|nan)(?=[,}\]\s])")
_WHITE = b" \t\r\n"
_LEADING = re.compile(rb"[\s,]*")


@dataclass(slots=True)
class Document:
    """What a trace holds beside its events; filled while the events are read."""

    head: dict[str, Any] = field(default_factory=dict)
    tail: dict[str, Any] = field(default_factory=dict)
    damaged: int = 0  # events that could not be read
    complete: bool = False  # the array of events has an end


def split(blocks: Iterable[bytes], document: Document, name: str, scan: Scan) -> Iterator[Piece]:
    """The events in the order of the file. Raises ProfError where the text is no trace."""
    stream = iter(blocks)
    first = _after_head(stream, document, name)
    left, ended = yield from _pieces(chain((first,), stream), document, scan)
    yield _end(left, ended, document)


def _end(left: bytes, ended: bool, document: Document) -> list[Event]:
    """The events of the text that is left at the end of the file; says what it finds after them."""
    events: list[Event] = []
    if not ended:
        events, left, ended = _last(left.lstrip(_WHITE + b","), document)
    document.complete = ended
    if ended:
        document.tail = _tail(left) or {}
    return events


def _pieces(stream: Iterable[bytes], document: Document, scan: Scan) -> Generator[Piece, None, tuple[bytes, bool]]:
    """Events up to the last border, the text after it, and whether the array of events has ended before that."""
    pending, ended = bytearray(), False
    due = 0  # length of what is pending, from which a border is looked for in it again
    for block in stream:
        border = None if ended else _last_border(block)[0]
        if border is None:
            pending += block
            if not ended and len(pending) >= due:
                border = next(filter(None, _last_border(pending)), None)
                due = 2 * len(pending)
                if border is not None:
                    pending, block = bytearray(), bytes(pending)
        if border is not None:
            array = _bracketed(pending, block, border)
            scanned = scan(array)
            if scanned is not None:
                yield scanned
                if scanned.odd:
                    yield _odd_ones(scanned.odd, document)
                rest, ended = b"", False
            else:
                events, rest, ended = _decode(array, document)
                yield events
            pending, due = bytearray(rest), 0
            pending += block[border:]
        if len(pending) > MOST_PENDING_BYTES:
            document.damaged += not ended
            break
    return bytes(pending), ended


def batches(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Lists of events joined until they are worth a turn of the collector; in the order of the file."""
    batch: list[Event] = []
    for number, piece in enumerate(pieces):
        if not isinstance(piece, Scanned):
            batch += piece
        if isinstance(piece, Scanned) or len(batch) >= _BATCH or number % _MOST_PIECES == 0:
            yield batch  # pieces of damaged events alone are empty
            batch = []
        if isinstance(piece, Scanned):
            yield piece
    yield batch


def _after_head(stream: Iterator[bytes], document: Document, name: str) -> bytes:
    """The text read so far, from the first event on. A long head is looked at each time that it has doubled."""
    parts: list[bytes] = []
    size = due = 0
    for block in stream:
        parts.append(block)
        size += len(block)
        if size >= due:
            parts = [b"".join(parts)]
            start = _start(parts[0], document, name)
            if start is not None:
                return parts[0][start:]
            due = min(2 * size, MOST_PENDING_BYTES + 1)
    text = b"".join(parts)
    start = _start(text, document, name)
    if start is None:
        raise ProfError(f"{name} holds no traceEvents: it is not a trace of torch.profiler, or it broke off at once.")
    return text[start:]


def _start(text: bytes, document: Document, name: str) -> int | None:
    """Where the array of events begins; None while more text is needed."""
    head = text.removeprefix(b"\xef\xbb\xbf").lstrip(_WHITE)
    if head and head[:1] not in b"{[":
        raise ProfError(f"{name} is not a trace: it is no JSON, which begins with {{ or [.")
    if head[:1] == b"[":
        return text.index(b"[") + 1
    found = _BEGINS.search(text)
    if found is None:
        if len(text) > MOST_PENDING_BYTES:
            raise ProfError(f"{name} holds no traceEvents in its first 64 MB: it is not a trace of torch.profiler.")
        return None
    document.head = _object(text[: found.start()].strip(_WHITE + b",") + b"}")
    return found.end()


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object, {} where it can't be read."""
    try:
        return decode_object(_NO_NUMBER.sub(b"null", text))
    except UNREADABLE:
        return {}


def _tail(text: bytes) -> dict[str, Any] | None:
    """What stands after the array of events; None where that can't be the end of a trace."""
    text = text.strip(_WHITE)
    if text in (b"", b"}"):
        return {}
    if not text.startswith(b","):
        return None
    try:
        return decode_object(_NO_NUMBER.sub(b"null", b"{" + text[1:]))
    except UNREADABLE:
        return None


def _last_border(text: bytes | bytearray) -> tuple[int | None, int | None]:
    """Right after the last `}` that is followed by `, {`: of an event, and one that may lie within an event.

    None for none; the second is not looked for beyond the first.
    """
    fallback = None
    at = len(text)
    for _ in range(_MOST_LOOKED_AT):
        at = text.rfind(b"{", 0, at)
        if at <= 0:
            break
        low = max(at - _WIDEST_GAP, 0)
        before = text[low:at].rstrip(_WHITE)
        ended = before[:-1].rstrip(_WHITE) if before.endswith(b",") else b""
        if ended.endswith(b"}"):
            if _EVENT.match(text, at):
                return low + len(ended), fallback
            fallback = fallback or low + len(ended)
    return None, fallback


def _bracketed(pending: bytearray, block: bytes, end: int) -> bytes:
    """What is pending and the block up to its end as an array, in one copy: copies cost as much as decoding."""
    pending = pending.lstrip(_WHITE + b",")
    begin = 0
    if not pending:
        found = _LEADING.match(block, 0, end)
        begin = found.end() if found else 0
    return b"".join((b"[", pending, memoryview(block)[begin:end], b"]"))


def _decode(array: bytes, document: Document) -> tuple[list[Event], bytes, bool]:
    """Events of a piece in brackets, the text that is left of it, and whether the array has ended before that."""
    found = _whole(array)
    if found is None and _NO_NUMBER.search(array):
        array = _NO_NUMBER.sub(b"null", array)
        found = _whole(array)
    if found is not None:
        return found
    try:
        return _readable_ones(texts_of(array), document), b"", False
    except UNREADABLE:
        events, rest = _objects(array[1:-1], document, final=False)
        return events, rest, False


def _whole(array: bytes) -> tuple[list[Event], bytes, bool] | None:
    """All events of a piece in brackets, where none is damaged, up to the end of the array where that lies in it."""
    try:
        return decode_all(array), b"", False
    except UNREADABLE as error:
        ends = _TRAILING.search(str(error))
    if ends is None:
        return None
    end = int(ends[1]) - 1  # the error counts from 1
    try:
        return decode_all(array[:end]), array[end:-1], True
    except UNREADABLE:
        return None


def _last(text: bytes, document: Document) -> tuple[list[Event], bytes, bool]:
    """Events of the last piece, the text after the array, and whether the array has an end."""
    text = _NO_NUMBER.sub(b"null", text.strip(_WHITE))
    if text[:1] == b"]":
        return [], text[1:], True
    found = _whole(b"[" + text + b"]")
    if found is not None and found[2]:
        return found
    for end in [place.start() + 1 for place in _ENDS.finditer(text)][-_MOST_ENDS:]:
        rest = text[end:].lstrip(_WHITE)[1:]
        if _tail(rest) is not None:
            return _objects(text[:end], document, final=True)[0], rest, True
    # no end: the last object is torn unless it happens to be whole
    pieces = _BETWEEN.split(text)
    events = _objects(b",".join(pieces[:-1]), document, final=True)[0] if len(pieces) > 1 else []
    torn = pieces[-1].rstrip(_WHITE + b",]")
    try:
        event = decode_one(torn) if torn else None
    except UNREADABLE:
        event = None
    return events + ([event] if event is not None else []), b"", False


def _odd_ones(texts: list[bytes], document: Document) -> list[Event]:
    """The events of which the quick way left the text to msgspec."""
    try:
        return decode_all(b"[" + b",".join(texts) + b"]")
    except UNREADABLE:
        return _readable_ones([_NO_NUMBER.sub(b"null", text) for text in texts], document)


def _readable_ones(texts: list[bytes], document: Document) -> list[Event]:
    """The events in texts that are JSON, of which some are no events."""
    found = [event for event in map(_readable, texts) if event is not None]
    document.damaged += len(texts) - len(found)
    return found


def _objects(text: bytes, document: Document, final: bool) -> tuple[list[Event], bytes]:
    """The events of a damaged piece one by one; an object that can't be read is counted and left out.

    Unless it is final, a piece may end within an object: that is left over.
    """
    pieces = _BETWEEN.split(text)
    found: list[Event] = []
    at = 0
    while at < len(pieces):
        used, whole, closed = _joined(pieces, at)
        if not closed and not final and at + used == len(pieces) and len(whole) < _MOST_JOINED_BYTES:
            return found, whole
        event = _readable(whole) if closed else None
        if event is None:
            document.damaged += 1
            used = 1
        else:
            found.append(event)
        at += used
    return found, b""


def _joined(pieces: list[bytes], at: int) -> tuple[int, bytes, bool]:
    """The pieces that make up the object that begins at one of them, as what it says may hold objects of its own.

    How many they are, their text, and whether its braces close.
    """
    whole, used, depth = pieces[at], 1, _depth(pieces[at])
    while depth > 0 and used < _MOST_JOINED and at + used < len(pieces):
        whole += b"," + pieces[at + used]
        depth += _depth(pieces[at + used])
        used += 1
    return used, whole, depth <= 0


def _depth(text: bytes) -> int:
    return text.count(b"{") - text.count(b"}")


def _readable(text: bytes) -> Event | None:
    """The event in a text, mended where need be; None where there is none."""
    for mend in (bytes, _mended):
        try:
            return decode_one(mend(text))
        except UNREADABLE:
            continue
    return None


def _mended(text: bytes) -> bytes:
    """Text whose strings hold what JSON forbids in them: stray bytes, paths with single backslashes, line breaks."""
    text = text.decode("utf-8", "replace").encode()
    return _CONTROL.sub(b" ", _ESCAPE.sub(rb"\\\\", text))
