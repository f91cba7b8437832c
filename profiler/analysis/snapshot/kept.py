"""What a run kept when a device's memory ran out.

In:  a training process's folder and its notes.
Out: `SnapshotFacts`, or a sentence why there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from profiler.analysis.site import Site
from profiler.analysis.snapshot.build import Failure, snapshot_facts
from profiler.analysis.snapshot_facts import SnapshotFacts
from profiler.errors import ProfError
from profiler.record import layout
from profiler.record.reader import of_kind
from profiler.record.snapshot import read_snapshot


def kept_snapshot(directory: Path, notes: Sequence[dict[str, Any]]) -> tuple[SnapshotFacts | None, tuple[str, ...]]:
    """The snapshot of the last failure, and what the reader must know of it."""
    failures = [failure for note in of_kind(list(notes), "out_of_memory") if (failure := _failure(note)) is not None]
    if not failures:
        return None, ()
    path = directory / layout.OUT_OF_MEMORY
    many = f"the device's memory ran out {len(failures)} times" if len(failures) > 1 else "the device's memory ran out"
    if not path.exists():
        return None, (f"{many}, and what held it could not be kept",)
    try:
        return snapshot_facts(read_snapshot(path), str(path), failures), (f"{many}: see Memory",)
    except ProfError as error:
        return None, (f"{many}, and what held it can't be read: {error}",)


def _failure(note: dict[str, Any]) -> Failure | None:
    numbers = [note.get(name) for name in ("device", "requested_bytes", "free_bytes")]
    if not all(isinstance(number, int) for number in numbers):
        return None
    device, requested, free = (int(number) for number in numbers if number is not None)
    file, line = note.get("file"), note.get("line")
    site = (
        Site(file, line, str(note.get("function") or "")) if isinstance(file, str) and isinstance(line, int) else None
    )
    return Failure(device, requested, free, site)
