"""Where a process stood when its record ended.

In:  the folder of a training process that did not end in an orderly way, or that an exception ended.
Out: `LastSeen`: the innermost call that was under way, for how long, and at which line of the user's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiler.analysis.rank_facts import LastSeen
from profiler.analysis.site import Site
from profiler.record import layout, reader
from profiler.record.reader import Events, of_kind
from profiler.record.vocabulary import COLLECTIVES, SPANS, STAGES, Flag, Kind, Name

_TAIL_EVENTS = 4096
_CAUGHT_NS = 5_000_000_000  # a collective that raised so long before the end was caught, and training went on


def last_seen(process_dir: Path, stream: str, notes: Sequence[Mapping[str, Any]]) -> LastSeen | None:
    """Where the training thread stood; None where nothing was recorded."""
    tapes = layout.tapes(process_dir)
    events = _tail(tapes.get(stream, []))
    if len(events) == 0:
        return None
    sampled = _tail(tapes.get("sampler", []))
    sampled = sampled[(sampled[:, 0] & np.uint64(0xFF)) == np.uint64(Kind.SAMPLE)]
    end_ns = max(int(events[-1, 1]), int(sampled[-1, 1]) if len(sampled) else 0)
    push, raised = _under_way(events, end_ns)
    ahead_ns = _unix_ahead_ns(tapes[stream][-1])
    site = _site_of(int(sampled[-1, 0]) >> 24, notes) if len(sampled) else None
    if push is None:
        return LastSeen("", False, False, 0.0, (end_ns + ahead_ns) / 1e9, site)
    code, since_ns = push
    name, detail = code >> 8 & 0xFFFF, code >> 24 & 0xFF
    communicating = name == Name.COMMUNICATION
    doing = COLLECTIVES.get(detail, "communication") if communicating else STAGES.get(name) or SPANS.get(name, "")
    return LastSeen(doing, communicating, raised, (end_ns - since_ns) / 1e9, (end_ns + ahead_ns) / 1e9, site)


def _tail(segments: Sequence[Path]) -> Events:
    """The last events of a stream."""
    found: Events = reader.NO_EVENTS
    for path in reversed(segments):
        found = np.concatenate((reader.read_segment(path)[0], found))
        if len(found) >= _TAIL_EVENTS:
            break
    found = found[-_TAIL_EVENTS:]
    kind = found[:, 0] & np.uint64(0xFF)
    kept: Events = found[np.isin(kind, (Kind.PUSH, Kind.POP, Kind.SAMPLE))]
    return kept


def _under_way(events: Events, end_ns: int) -> tuple[tuple[int, int] | None, bool]:
    """The innermost PUSH without a POP; else a collective that raised right before the end."""
    stack: list[tuple[int, int]] = []
    failed: tuple[int, int] | None = None
    for code, time in events.tolist():
        name = code >> 8 & 0xFFFF
        if code & 0xFF == Kind.PUSH:
            stack.append((code, time))
        elif stack and stack[-1][0] >> 8 & 0xFFFF == name:
            ended = stack.pop()
            if name == Name.COMMUNICATION:
                failed = ended if code >> 48 & Flag.RAISED and end_ns - time < _CAUGHT_NS else None
    return (stack[-1], False) if stack else (failed, failed is not None)


def _unix_ahead_ns(path: Path) -> int:
    header = reader.read_header(path)
    return header.created_unix_ns - header.created_perf_ns if header else 0


def _site_of(number: int, notes: Sequence[Mapping[str, Any]]) -> Site | None:
    for note in of_kind([dict(note) for note in notes], "site"):
        if note.get("id") == number and isinstance(note.get("file"), str) and isinstance(note.get("line"), int):
            return Site(note["file"], note["line"], str(note.get("function") or ""))
    return None
