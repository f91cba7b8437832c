"""From text to events, a bounded piece at a time.

In:  the blocks of a `Source`.
Out: lists of events; what stands before and after them (`Document.head`, `.tail`), and what could not be read.

A piece ends between two objects of the array of events. It is decoded as a whole; only where that fails is it looked
at more closely: numbers that are none (NaN, Infinity), the end of the array, objects that are damaged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from profiler.errors import ProfError
from profiler.record.trace.event import UNREADABLE, Event, decode_all, decode_object, decode_one

MOST_PENDING_BYTES = 64 << 20  # of text in which no event ends
_MOST_JOINED = 64  # pieces of one object that looked like several
_MOST_JOINED_BYTES = 1 << 20
_MOST_ENDS = 64  # places that look like the end of the array
_BEGINS = re.compile(rb'"traceEvents"\s*:\s*\[')
_ENDS = re.compile(rb"\}\s*\]")
_BETWEEN = re.compile(rb"(?<=\})\s*,\s*(?=\{)")
_ESCAPE = re.compile(rb'\\(?!["\\/bfnrtu])')
_CONTROL = re.compile(rb"[\x00-\x1f]")
_NO_NUMBER = re.compile(rb"(?<=[:,\[\s])-?(?:Infinity|NaN|inf|nan)(?=[,}\]\s])")
_WHITE = b" \t\r\n"


@dataclass(slots=True)
class Document:
    """What a trace holds beside its events; filled while the events are read."""

    head: dict[str, Any] = field(default_factory=dict)
    tail: dict[str, Any] = field(default_factory=dict)
    damaged: int = 0  # events that could not be read
    complete: bool = False  # the array of events has an end


def split(blocks: Iterable[bytes], document: Document, name: str) -> Iterator[list[Event]]:
    """The events in the order of the file. Raises ProfError where the text is no trace."""
    pending = b""
    inside = ended = False
    for block in blocks:
        pending = pending + block if pending else block
        if not inside:
            start = _start(pending, document, name)
            if start is None:
                continue
            inside, pending = True, pending[start:]
        if ended:
            if len(pending) > MOST_PENDING_BYTES:
                break
            continue
        cut = _last_border(pending)
        if cut is None:
            if len(pending) > MOST_PENDING_BYTES:
                document.damaged += 1
                return
            continue
        events, rest = _decode(pending[:cut], document)
        if rest is None:
            pending = pending[cut:].lstrip(_WHITE).removeprefix(b",")
        else:
            ended, pending = True, rest + pending[cut:]
        yield events
    if not inside:
        raise ProfError(f"{name} holds no traceEvents: it is not a trace of torch.profiler, or it broke off at once.")
    if not ended:
        events, rest = _last(pending, document)
        ended, pending = rest is not None, rest or b""
        yield events
    document.complete = ended
    if ended:
        document.tail = _object(b"{" + pending.strip(_WHITE).removeprefix(b",").rstrip(_WHITE + b"}") + b"}")


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
        pass
    try:  # what stands after it may be cut off: the longest beginning that is whole
        return decode_object(text[: text.rindex(b",\n")] + b"}")
    except (*UNREADABLE, ValueError):
        return {}


def _last_border(text: bytes) -> int | None:
    """Right after the last `}` that is followed by `, {`; None where there is none."""
    at = len(text)
    while (at := text.rfind(b"{", 0, at)) > 0:
        before = text[max(at - 256, 0) : at].rstrip(_WHITE)
        if before.endswith(b",") and before[:-1].rstrip(_WHITE).endswith(b"}"):
            return max(at - 256, 0) + len(before[:-1].rstrip(_WHITE))
    return None


def _decode(text: bytes, document: Document) -> tuple[list[Event], bytes | None]:
    """Events of a piece, and, where the array ends in it, the text after the array."""
    try:
        return decode_all(b"[" + text + b"]"), None
    except UNREADABLE:
        pass
    if _NO_NUMBER.search(text):
        text = _NO_NUMBER.sub(b"null", text)
        try:
            return decode_all(b"[" + text + b"]"), None
        except UNREADABLE:
            pass
    ended = _ended(text)
    return ended if ended is not None else (_objects(text, document), None)


def _ended(text: bytes) -> tuple[list[Event], bytes] | None:
    """Events up to the end of the array, and the text after it, where the array ends in this piece."""
    for tried, found in enumerate(_ENDS.finditer(text)):
        if tried == _MOST_ENDS:
            break
        try:
            return decode_all(b"[" + text[: found.start() + 1] + b"]"), text[found.end() :]
        except UNREADABLE:
            continue
    return None


def _last(text: bytes, document: Document) -> tuple[list[Event], bytes | None]:
    """Events of the last piece; the text after the array is None where the array has no end."""
    text = text.strip(_WHITE)
    if text[:1] == b"]":
        return [], text[1:]
    text = _NO_NUMBER.sub(b"null", text)
    ended = _ended(text)
    if ended is not None:
        return ended
    # no end: the last object is torn unless it happens to be whole
    pieces = _BETWEEN.split(text)
    torn = pieces[-1].rstrip(_WHITE + b",")
    whole = _objects(b",".join(pieces[:-1]), document) if len(pieces) > 1 else []
    at = max((found.start() + 1 for found in _ENDS.finditer(torn)), default=None)
    for candidate, rest in ((torn, None), (torn[:at], torn[at:].lstrip(_WHITE)[1:] if at else None)):
        try:
            event = decode_one(candidate) if candidate else None
        except UNREADABLE:
            continue
        return whole + ([event] if event is not None else []), rest
    return whole, None


def _objects(text: bytes, document: Document) -> list[Event]:
    """The events of a damaged piece one by one; an object that can't be read is counted and left out."""
    pieces = _BETWEEN.split(text)
    found: list[Event] = []
    at = 0
    while at < len(pieces):
        event, used = _joined(pieces, at)
        if event is not None:
            found.append(event)
        else:
            document.damaged += 1
        at += used
    return found


def _joined(pieces: list[bytes], at: int) -> tuple[Event | None, int]:
    """The event that begins at a piece, and how many pieces it takes: what it says may hold objects of its own."""
    whole = b""
    for used, piece in enumerate(pieces[at : at + _MOST_JOINED], 1):
        whole = whole + b"," + piece if whole else piece
        try:
            return decode_one(whole), used
        except UNREADABLE:
            if len(whole) > _MOST_JOINED_BYTES:
                break
    try:
        return decode_one(_mended(pieces[at])), 1
    except UNREADABLE:
        return None, 1


def _mended(text: bytes) -> bytes:
    """Text whose strings hold what JSON forbids in them: stray bytes, paths with single backslashes, line breaks."""
    text = text.decode("utf-8", "replace").encode()
    return _CONTROL.sub(b" ", _ESCAPE.sub(rb"\\\\", text))
