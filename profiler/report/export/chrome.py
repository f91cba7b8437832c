"""A typical and a slow step as a chrome trace: what chrome://tracing and Perfetto read.

In:  `StepExcerpt`s.
Out: JSON in the Trace Event Format ("Trace Event Format", Google, 2016): complete events in microseconds, with a
     name for each process and thread. Each step keeps its place in the recording.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import profiler
from profiler.analysis.device_facts import COPY_KINDS
from profiler.analysis.excerpt import CALLS, DEVICE, OPERATORS, STAGES, ExcerptRow, StepExcerpt
from profiler.analysis.facts import Facts
from profiler.errors import ProfError
from profiler.report.files import write_whole

NO_STEPS = (
    "holds no step in full, so that there is none to export: no steps were found, or most of the trace's events "
    "were taken out of it."
)


def export_steps(facts: Facts, path: Path, name: str) -> int:
    """Write the steps of a run; how many spans, the shortest, were too many to keep.

    Raises ProfError when there are no steps or the file can't be written.
    """
    if not facts.excerpts:
        raise ProfError(f"{name} {NO_STEPS}")
    if not path.parent.is_dir():
        raise ProfError(f"{path} can't be written: {path.parent} is not a folder.")
    write_whole(path, json.dumps(chrome_trace(facts), allow_nan=False, separators=(",", ":")).encode("ascii"))
    return _left_out(facts)


def chrome_trace(facts: Facts) -> dict[str, Any]:
    """The trace as plain data."""
    about: dict[str, Any] = {"by": f"prof {profiler.__version__}", "run": facts.run.name}
    about["device"] = facts.machine.device
    if _left_out(facts):
        about["spans_left_out"] = f"{_left_out(facts):,}, the shortest"
    return {
        "displayTimeUnit": "ms",
        "otherData": about,
        "traceEvents": [*_names(facts.excerpts), *_events(facts.excerpts)],
    }


def _left_out(facts: Facts) -> int:
    return sum(excerpt.left_out for excerpt in facts.excerpts)


def _numbers(excerpts: Sequence[StepExcerpt]) -> dict[tuple[str, str], tuple[int, int]]:
    """The process and thread number of each row: hosts and devices are processes, their rows are threads."""
    keys = list(dict.fromkeys((row.group, row.name) for excerpt in excerpts for row in excerpt.rows))
    groups = list(dict.fromkeys(group for group, _ in keys))
    return {key: (groups.index(key[0]) + 1, number + 1) for number, key in enumerate(keys)}


def _names(excerpts: Sequence[StepExcerpt]) -> Iterable[dict[str, Any]]:
    seen = set()
    for (group, name), (pid, tid) in _numbers(excerpts).items():
        if pid not in seen:
            seen.add(pid)
            yield _meta("process_name", pid, 0, {"name": group})
            yield _meta("process_sort_index", pid, 0, {"sort_index": pid})
        yield _meta("thread_name", pid, tid, {"name": name})
        yield _meta("thread_sort_index", pid, tid, {"sort_index": tid})


def _meta(name: str, pid: int, tid: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": arguments}


def _events(excerpts: Sequence[StepExcerpt]) -> Iterable[dict[str, Any]]:
    numbers = _numbers(excerpts)
    for excerpt in excerpts:
        began_us = excerpt.start_ms * 1e3
        stages = next((row for row in excerpt.rows if row.kind == STAGES), None)
        if stages is not None:
            pid, tid = numbers[stages.group, stages.name]
            yield {
                "ph": "X",
                "name": f"ProfilerStep#{excerpt.index}",
                "cat": "user_annotation",
                "pid": pid,
                "tid": tid,
                "ts": round(began_us, 3),
                "dur": round(excerpt.wall_ms * 1e3, 3),
                "args": {"step": excerpt.what},
            }
        for row in excerpt.rows:
            yield from _spans(row, began_us, numbers[row.group, row.name])


def _category(kind: str, group: str) -> str:
    """Kineto's word for it, so that tools for its traces find their way here too."""
    if kind == DEVICE:
        return "gpu_memset" if group == "memset" else "gpu_memcpy" if group in COPY_KINDS else "kernel"
    return {OPERATORS: "cpu_op", CALLS: "cuda_runtime"}.get(kind, "user_annotation")


def _spans(row: ExcerptRow, began_us: float, number: tuple[int, int]) -> Iterable[dict[str, Any]]:
    pid, tid = number
    for start, length, name, group in zip(row.start_us, row.length_us, row.names, row.classes, strict=True):
        staged = row.kind == STAGES
        event = {
            "ph": "X",
            "name": group if staged else name,
            "cat": _category(row.kind, group),
            "pid": pid,
            "tid": tid,
            "ts": round(began_us + start, 3),
            "dur": round(length, 3),
        }
        detail = name if staged else group
        yield event | {"args": {"kind": detail}} if detail and detail != event["name"] else event
