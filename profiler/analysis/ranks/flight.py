"""What torch's flight recorder says of a job that stands still.

In:  dumps of ranks, each with the collectives that the rank issued last.
Out: the `Hang`: the collective that is not done, who called it and who did not; a `Mismatch` where ranks called
     different things in the same place.

Collectives of a group are numbered alike on all its ranks. So a rank has come to a collective if it has an entry with
that number, and has not if its last number is smaller.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from profiler.analysis.rank_facts import FlightEntry, FlightRecord, Hang, Mismatch
from profiler.analysis.site import Site
from profiler.errors import ProfError
from profiler.record import layout
from profiler.record.flight_recorder import Dump, Entry, Frame, dumps_in, read_dump

KEPT = 64  # entries of a rank
_LIBRARY = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}", "/torch/", "/profiler/capture/", "<")
_DTYPES = {"Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Double": "float64", "Long": "int64"}
_TOGETHER = ("all", "reduce_scatter", "barrier")  # operations that end for nobody before the last rank has come
Records = Mapping[int, FlightRecord]


def find(prefixes: Sequence[str], rank: int, since_unix_s: float) -> FlightRecord | None:
    """The rank's dump where torch was told to write it; None where none was written since."""
    for path in (Path(f"{prefix}{rank}") for prefix in prefixes):
        try:
            if path.is_file() and path.stat().st_mtime >= since_unix_s:
                return record_of(read_dump(path), in_place=True)
        except (OSError, ProfError):
            continue
    return None


def laid_in(run_dir: Path) -> dict[int, FlightRecord]:
    """Dumps that somebody laid into the run's folder; those that can't be read are left out."""
    folder = run_dir / layout.FLIGHT_RECORDER
    found = {}
    for rank, path in dumps_in(folder).items() if folder.is_dir() else ():
        with contextlib.suppress(ProfError):
            found[rank] = record_of(read_dump(path))
    return found


def read_all(folder: Path) -> dict[int, FlightRecord]:
    """All dumps of a folder. Raises ProfError where it holds none, or one can't be read."""
    found = {rank: record_of(read_dump(path)) for rank, path in dumps_in(folder).items()}
    if not found:
        raise ProfError(f"{folder} holds no dump of the flight recorder: their names end in the rank's number.")
    return found


def record_of(dump: Dump, in_place: bool = False) -> FlightRecord:
    """What is kept of a dump: its last collectives.

    When it was written only a file tells that still lies in its place; of a copy the last collective's time is taken.
    """
    entries = tuple(_entry(each) for each in dump.entries if not each.point_to_point)
    last = max((entry.created_unix_s for entry in entries), default=0.0)
    return FlightRecord(dump.version, dump.groups, entries[-KEPT:], dump.written_unix_s if in_place else last)


def _entry(entry: Entry) -> FlightEntry:
    return FlightEntry(
        group=entry.group,
        description=entry.description,
        sequence=entry.sequence,
        operation=entry.operation,
        sizes=_described(entry),
        input_sizes=entry.input_sizes,
        output_sizes=entry.output_sizes,
        types=tuple(sorted({*entry.input_types, *entry.output_types})),
        done=entry.done,
        started=entry.state == "started",
        created_unix_s=entry.created_unix_ns / 1e9,
        site=_site(entry.frames),
    )


def _described(entry: Entry) -> str:
    def side(sizes: tuple[tuple[int, ...], ...], types: tuple[str, ...]) -> str:
        shown = ", ".join("×".join(map(str, size)) or "1" for size in sizes[:3])
        more = f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""
        kind = _DTYPES.get(types[0], types[0].lower()) if types else ""
        return f"{shown}{more} {kind}".strip()

    given, taken = side(entry.input_sizes, entry.input_types), side(entry.output_sizes, entry.output_types)
    return given if given == taken or not taken else f"{given} → {taken}" if given else taken


def _site(frames: Sequence[Frame]) -> Site | None:
    """The innermost line that is the user's."""
    for frame in frames:
        if frame.file and frame.line > 0 and not any(part in frame.file for part in _LIBRARY):
            return Site(frame.file, frame.line, frame.function)
    return None


def hang_of(records: Records, world_size: int) -> Hang | None:
    """The collective that holds the job: not done on some rank; None where nothing is under way."""
    found = []
    for group in _groups(records):
        passed = _passed(records, group)
        under_way = {rank: _open(record, group, passed) for rank, record in records.items()}
        waiting = {rank: entry for rank, entry in under_way.items() if entry is not None}
        if waiting:
            found.append(_stuck(records, group, waiting, world_size))
    # a rank that is missed in one group may stand in a collective of another: that one comes first
    busy = {rank for hang in found for rank in hang.arrived}
    found.sort(key=lambda hang: (bool(busy.intersection(hang.absent)), -hang.for_s))
    return found[0] if found else None


def _groups(records: Records) -> list[str]:
    return list(dict.fromkeys(entry.group for record in records.values() for entry in record.entries))


def _passed(records: Records, group: str) -> int:
    """The last collective of the group that is done on some rank and ends for all together: a dump may say so late."""
    return max(
        (
            entry.sequence
            for record in records.values()
            for entry in record.entries
            if entry.group == group and entry.done and entry.operation.lstrip("_").startswith(_TOGETHER)
        ),
        default=-1,
    )


def _open(record: FlightRecord, group: str, passed: int) -> FlightEntry | None:
    """The first collective of the group that is not done."""
    return next(
        (entry for entry in record.entries if entry.group == group and not entry.done and entry.sequence > passed), None
    )


def _stuck(records: Records, group: str, waiting: Mapping[int, FlightEntry], world_size: int) -> Hang:
    sequence = min(entry.sequence for entry in waiting.values())
    first = next(entry for entry in waiting.values() if entry.sequence == sequence)
    members = _members(records, group, world_size)
    arrived: list[int] = []
    absent: list[int] = []
    sites: dict[str, Site] = {}
    doing: dict[str, str] = {}
    for rank in members:
        if rank not in records:
            continue
        issued = [entry for entry in records[rank].entries if entry.group == group]
        last = issued[-1] if issued else None
        reached = last is not None and last.sequence >= sequence
        (arrived if reached else absent).append(rank)
        here = next((entry for entry in issued if entry.sequence == sequence), last)
        if here is not None and here.site is not None:
            sites[str(rank)] = here.site
        doing[str(rank)] = here.operation if here is not None and reached else _after(last)
    for_s = max(records[rank].written_unix_s - entry.created_unix_s for rank, entry in waiting.items())
    return Hang(
        collective=first.operation,
        arrived=tuple(arrived),
        absent=tuple(absent),
        for_s=max(for_s, 0.0),
        sites=sites,
        doing=doing,
        unknown=tuple(rank for rank in members if rank not in records),
        group=first.description or group,
        sequence=sequence,
        sizes=first.sizes,
        recorder=True,
    )


def _after(last: FlightEntry | None) -> str:
    return (
        f"after {last.operation} number {last.sequence}" if last is not None else "before any collective of the group"
    )


def _members(records: Records, group: str, world_size: int) -> list[int]:
    """The group's ranks, as the dumps say; all that issued anything in it where they don't."""
    for record in records.values():
        known = record.groups.get(group)
        if known:
            return sorted(known)
    seen = sorted(rank for rank, record in records.items() if any(entry.group == group for entry in record.entries))
    default = any(
        entry.description == "default_pg"
        for record in records.values()
        for entry in record.entries
        if entry.group == group
    )
    return list(range(max(world_size, *(rank + 1 for rank in seen)))) if default else seen


def mismatch_of(records: Records) -> Mismatch | None:
    """The first collective for which ranks of a group called different things; None where all agree."""
    for group in _groups(records):
        calls: dict[int, dict[int, FlightEntry]] = {}
        for rank, record in sorted(records.items()):
            for entry in record.entries:
                if entry.group == group:
                    calls.setdefault(entry.sequence, {})[rank] = entry
        for sequence in sorted(calls):
            found = _differs(group, sequence, calls[sequence])
            if found is not None:
                return found
    return None


def _differs(group: str, sequence: int, calls: Mapping[int, FlightEntry]) -> Mismatch | None:
    for what, key in _COMPARED.items():
        by_key: dict[object, list[int]] = {}
        for rank, entry in calls.items():
            by_key.setdefault(key(entry), []).append(rank)
        if len(by_key) < 2:
            continue
        ranked = sorted(by_key.values(), key=lambda ranks: (-len(ranks), ranks))
        named: dict[str, tuple[int, ...]] = {}
        sites: dict[str, Site] = {}
        for ranks in ranked:
            entry = calls[ranks[0]]
            text = f"{entry.operation} of {entry.sizes}" if entry.sizes else entry.operation
            named[text] = (*named.get(text, ()), *ranks)
            if entry.site is not None:
                sites[str(ranks[0])] = entry.site
        first = calls[ranked[0][0]]
        return Mismatch(first.description or group, sequence, what, named, sites)
    return None


def _comparable(entry: FlightEntry) -> tuple[object, ...]:
    """The sizes that have to be the same on all ranks; variants with _v and all_to_all may differ."""
    name = entry.operation.split(" ")[0].lstrip("_")
    free = name.endswith("_v") or name.startswith("all_to_all") or name == "split"
    given = () if free or name == "scatter" else entry.input_sizes  # of which only the root hands something in
    taken = () if free or name == "gather" else entry.output_sizes
    return given, taken


_COMPARED: dict[str, Callable[[FlightEntry], object]] = {
    "operation": lambda entry: entry.operation,
    "size": _comparable,
    "type": lambda entry: entry.types,
}
