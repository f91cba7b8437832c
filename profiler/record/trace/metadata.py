"""What a trace says beside its events: devices, and the process's place among the ranks.

In:  values of the document's head and tail, of any type.
Out: plain values; what can't be believed is left out.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from profiler.record.trace.recording import Distributed

_RANK_IN_NAME = re.compile(r"rank[-_.]?(\d{1,6})(?!\d)", re.IGNORECASE)


def whole(value: object) -> int | None:
    """A whole number, also where it stands as a string; None for anything else."""
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62 else None


def _value(given: object) -> Any:
    """Kineto writes some values as strings of Python."""
    if isinstance(given, str) and len(given) < 1 << 20:
        try:
            return ast.literal_eval(given)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return given


def distributed_of(given: object, file_name: str) -> Distributed:
    """Rank and world size: as recorded, else the rank that the file's name holds."""
    said = _value(given)
    said = said if isinstance(said, dict) else {}
    rank, backend = whole(said.get("rank")), said.get("backend")
    if rank is None:
        found = _RANK_IN_NAME.search(file_name)
        rank = int(found[1]) if found else None
    return Distributed(str(backend) if backend else None, rank, whole(said.get("world_size")))


def _properties(given: object) -> dict[int, dict[str, Any]]:
    said = _value(given)
    rows = [row for row in said if isinstance(row, dict)] if isinstance(said, list) else []
    numbers = [whole(row.get("id")) for row in rows]
    return {number: row for number, row in zip(numbers, rows, strict=True) if number is not None}


def device_names(properties: object) -> dict[int, str]:
    """Names of devices by their numbers."""
    return {number: str(row["name"]) for number, row in _properties(properties).items() if row.get("name")}


def capacities_of(properties: object) -> dict[int, int]:
    """Memory of devices by their numbers, in bytes."""
    found = {number: whole(row.get("totalGlobalMem")) for number, row in _properties(properties).items()}
    return {number: size for number, size in found.items() if size}
