"""Dumps of the flight recorder made by hand, in the layout of torch's version 2.10."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

NOW_NS = 1_790_000_000_000_000_000


def entry(sequence: int, operation: str = "nccl:all_reduce", line: int = 12, **changes: Any) -> dict[str, Any]:
    """One collective; retired unless said otherwise."""
    made = {
        "frames": [
            {"name": "all_reduce", "filename": "/opt/lib/site-packages/torch/distributed/c10d.py", "line": 3},
            {"name": "step", "filename": "/home/ada/train.py", "line": line},
            {"name": "<module>", "filename": "/home/ada/main.py", "line": 1},
        ],
        "record_id": sequence,
        "pg_id": 0,
        "process_group": ("0", "default_pg"),
        "collective_seq_id": sequence,
        "p2p_seq_id": 0,
        "op_id": sequence,
        "profiling_name": operation,
        "time_created_ns": NOW_NS + sequence * 10**6,
        "input_sizes": [[4, 3]],
        "input_dtypes": ["Float"],
        "output_sizes": [[4, 3]],
        "output_dtypes": ["Float"],
        "state": "completed",
        "time_discovered_started_ns": None,
        "time_discovered_completed_ns": None,
        "retired": True,
        "timeout_ms": 600_000,
        "is_p2p": False,
    }
    return {**made, **changes}


def under_way(sequence: int, **changes: Any) -> dict[str, Any]:
    return entry(sequence, **{"state": "started", "retired": False, **changes})


def dump(entries: list[dict[str, Any]], ranks: str = "[0, 1, 2, 3]", **changes: Any) -> dict[str, Any]:
    groups = {"0": {"name": "0", "desc": "default_pg", "ranks": ranks}}
    return {"version": "2.10", "pg_config": groups, "comm_lib_version": "", "entries": entries, **changes}


class _LikeTorch(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Memoizes strings, as torch's own writer does, and no tuples."""

    def memoize(self, obj: Any) -> None:
        if not isinstance(obj, tuple):
            super().memoize(obj)


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _LikeTorch(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def write(folder: Path, dumps: dict[int, dict[str, Any]], as_json: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for rank, value in dumps.items():
        data = json.dumps(value).encode() if as_json else pickled(value)
        (folder / f"nccl_trace_rank_{rank}").write_bytes(data)
    return folder
