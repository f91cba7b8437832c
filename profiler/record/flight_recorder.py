"""Read what torch's flight recorder left of one rank: the collectives that it issued last.

In:  a dump (its file is named by `TORCH_FR_DUMP_TEMP_FILE` or `TORCH_NCCL_DEBUG_INFO_TEMP_FILE`, and the rank's
     number), a pickle that nobody vouches for, or the same as JSON.
Out: `Dump`; a file that is none raises ProfError, in one sentence.

Versions 2.x of the layout: `version`, `pg_config`, `entries`, and of each entry `process_group`, `collective_seq_id`,
`profiling_name` ("nccl:all_reduce"), `state`, sizes and types, `frames`. What a version lacks stays empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.errors import ProfError
from profiler.record.plain_pickle import load_plain

_KIND = "a dump of the flight recorder is a pickle or JSON with `version` and `entries`"
_LARGEST_BYTES = 256 << 20
_NUMBER = re.compile(r"(\d+)(?:\.(?:json|pickle|pkl))?$")


@dataclass(frozen=True, slots=True)
class Frame:
    """A line of the stack that issued a collective, innermost first."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One collective, or one message."""

    group: str  # the process group's name
    description: str
    sequence: int
    point_to_point: bool
    operation: str  # "all_reduce", "send 0->1"
    backend: str
    input_sizes: tuple[tuple[int, ...], ...]
    output_sizes: tuple[tuple[int, ...], ...]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    state: str  # "scheduled", "started" or "completed"
    done: bool
    created_unix_ns: int
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Dump:
    """What one rank issued last, oldest first."""

    version: str
    groups: dict[str, tuple[int, ...]]  # name → its ranks
    entries: tuple[Entry, ...]
    written_unix_s: float


def dumps_in(folder: Path) -> dict[int, Path]:
    """Files of a folder that end in a rank's number and hold a dump, by that number.

    Raises ProfError where the folder can't be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise ProfError(f"{folder} can't be read ({error.strerror}): give the folder of the dumps.") from error
    found = {}
    for path in files:
        match = _NUMBER.search(path.name)
        if match and path.suffix not in (".tape", ".npz", ".html"):
            found[int(match[1])] = path
    return found


def read_dump(path: Path) -> Dump:
    """The dump in a file. Raises ProfError."""
    try:
        size = path.stat().st_size
        if size > _LARGEST_BYTES:
            raise ProfError(f"{path} is {size >> 20:,} MiB: a dump of the flight recorder is far smaller; not read.")
        data = path.read_bytes()
        written = path.stat().st_mtime
    except OSError as error:
        raise ProfError(f"{path} can't be read ({error.strerror}): give the folder of the dumps.") from error
    if data[:1] == b"{":
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ProfError(f"{path} is damaged: it is not JSON.") from error
    else:
        value = load_plain(data, str(path), pairs=True, kind=_KIND)
    if not isinstance(value, dict) or not isinstance(value.get("entries"), list):
        raise ProfError(f"{path} holds no entries of the flight recorder: {_KIND}.")
    version = str(value.get("version") or "")
    if version and version.split(".")[0] not in ("1", "2"):
        raise ProfError(f"{path} has version {version} of the flight recorder's layout: versions 1 and 2 are known.")
    entries = [_entry(each) for each in value["entries"] if isinstance(each, dict)]
    return Dump(version, _groups(value.get("pg_config")), tuple(each for each in entries if each), written)


def _groups(config: Any) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, group in config.items() if isinstance(config, dict) else ():
        ranks = group.get("ranks") if isinstance(group, dict) else None
        if isinstance(ranks, str):
            ranks = re.findall(r"\d+", ranks)
        if isinstance(ranks, list):
            found[str(name)] = tuple(int(rank) for rank in ranks if str(rank).isdigit())
    return found


def _entry(value: Mapping[str, Any]) -> Entry | None:
    """An entry; None for one that names no collective."""
    name = value.get("profiling_name")
    if not isinstance(name, str):
        return None
    group = value.get("process_group")
    named = [str(part) for part in group] if isinstance(group, (list, tuple)) else [str(value.get("pg_id", ""))]
    point_to_point = bool(value.get("is_p2p"))
    backend, _, operation = name.rpartition(":")
    state = str(value.get("state") or "")
    return Entry(
        group=named[0] if named else "",
        description=named[1] if len(named) > 1 else "",
        sequence=_number(value.get("p2p_seq_id" if point_to_point else "collective_seq_id", value.get("seq_id"))),
        point_to_point=point_to_point,
        operation=operation,
        backend=backend,
        input_sizes=_sizes(value.get("input_sizes")),
        output_sizes=_sizes(value.get("output_sizes")),
        input_types=_texts(value.get("input_dtypes")),
        output_types=_texts(value.get("output_dtypes")),
        state=state,
        done=bool(value.get("retired")) or state == "completed",
        created_unix_ns=_number(value.get("time_created_ns")),
        frames=_frames(value.get("frames")),
    )


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _sizes(value: Any) -> tuple[tuple[int, ...], ...]:
    rows: Sequence[Any] = value if isinstance(value, (list, tuple)) else ()
    return tuple(tuple(map(_number, row)) for row in rows if isinstance(row, (list, tuple)))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()


def _frames(value: Any) -> tuple[Frame, ...]:
    rows: Sequence[Any] = value if isinstance(value, (list, tuple)) else ()
    return tuple(
        Frame(str(row.get("filename") or ""), _number(row.get("line")), str(row.get("name") or ""))
        for row in rows
        if isinstance(row, dict)
    )
