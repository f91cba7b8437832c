"""A trace read by several processes is the trace that one process reads, whatever is wrong with it."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trace_builder import TraceBuilder, training, usual_host

from profiler.errors import ProfError
from profiler.record.trace import parallel, read, split
from profiler.record.trace.read import read_trace
from profiler.record.trace.recording import Recording

_NAMED = {"name", "collective", "dtype", "frame"}
STEPS = 300


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_STRETCH_BYTES", 20_000)
    monkeypatch.setattr(parallel, "_SLOT_BYTES", 40_000)
    monkeypatch.setattr(parallel, "BLOCK_BYTES", 4096)


def step(builder: TraceBuilder, start: float) -> None:
    """With everything that the parts have to agree about: functions of Python that are called across stretches."""
    usual_host(builder, start)
    builder.copy(start + 2, 1, called=start + 1, call_ms=0.5)
    name = f"ncclKernel_AllReduce_{int(start) % 7}"
    builder.kernel(start + 50, 9, launched=start + 40, **{"Collective name": "allreduce", "dtype": "Float"})
    builder.kernel(start + 60, 5, launched=start + 45, name=name)
    caller = 1 if start else builder.python("train.py(1): main", 0, 100 * STEPS)
    inner = builder.python(f"model_{int(start) % 11}.py(7): forward", start + 3, 20, caller)
    builder.python("torch/nn/functional.py(9): linear", start + 4, 10, inner)
    builder.python("torch/nn/functional.py(99): hidden", start + 5, 1, 10_000_000)
    builder.op("aten::mm", start + 4.5, 3)
    builder.events[-1]["args"] |= {"Input Dims": [[int(start) % 5 + 1, 8], [8, 4]], "Input type": ["float", "float"]}
    builder.events[-1]["args"]["Call stack"] = f"torch/a.py(1): x;model_{int(start) % 3}.py(5): forward"
    builder.event("cpu_instant_event", "[memory]", start + 6, 0, 0, 0)
    said = {"Device Type": 1, "Device Id": 0, "Total Allocated": 10 + int(start), "Total Reserved": 100}
    builder.events[-1] |= {"ph": "i", "args": said}


def text() -> bytes:
    return training(step, STEPS, rank=1, world_size=2).text()


def named(recording: Recording) -> dict[str, Any]:
    """All that a recording holds, with names instead of their numbers."""
    found: dict[str, Any] = {}
    names = np.array([*recording.names, ""], dtype=object)
    for table in ("operators", "calls", "device", "python", "memory"):
        held = getattr(recording, table)
        for field in dataclasses.fields(held):
            values = getattr(held, field.name).tolist()
            if field.name in _NAMED:
                values = names[values].tolist()
            elif field.name == "track":
                values = [recording.tracks[number] for number in values]
            elif field.name == "given":
                values = [recording.given[number] if number >= 0 else None for number in values]
            found[f"{table}.{field.name}"] = values
    others = (
        "origin_ns",
        "base_ns",
        "length_ns",
        "numbering",
        "distributed",
        "devices",
        "unpacked_bytes",
        "notices",
        "lost",
    )
    return found | {name: getattr(recording, name) for name in others}


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """As one process reads it, as three do, and which way the latter ended."""
    ways: list[str] = []
    monkeypatch.setattr(read, "processes_for", lambda _: 1)
    alone = named(read_trace(path, 4096))
    monkeypatch.setattr(read, "processes_for", lambda _: 3)
    by_itself = read._by_itself
    monkeypatch.setattr(read, "_by_itself", lambda *given: (ways.append("by itself"), by_itself(*given))[1])
    return alone, named(read_trace(path, 4096)), ways


@pytest.mark.parametrize("packed", [False, True])
def test_it_is_the_same_recording(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ("made.json.gz" if packed else "made.json")
    path.write_bytes(gzip.compress(text(), 1) if packed else text())
    alone, together, ways = both(path, monkeypatch)
    assert ways == [] and len(alone["python.name"]) == 2 * STEPS + 1 and alone["memory.time"]
    assert set(alone["operators.frame"]) > {"", "model_2.py(5): forward"}
    assert len(text()) > 20 * parallel._STRETCH_BYTES
    assert together == alone


def damaged(what: str) -> bytes:
    whole = text()
    middle = whole.index(b'{"ph"', len(whole) // 2)
    if what == "an event that is none":
        return whole[:middle] + b'{"ph": "X", "cat": broken},\n  ' + whole[middle:]
    if what == "no number":
        return whole.replace(b'"dur": 9', b'"dur": NaN', 40)
    if what == "torn within an event":
        return whole[: middle + 40]
    if what == "an end in the middle":
        return whole[:middle].rstrip(b", \n") + b'], "traceName": "' + b"x" * 300_000 + b'"}'
    assert what == "an event of megabytes"
    return whole[:middle] + b'{"ph": "M", "name": "' + b"y" * 300_000 + b'"},\n  ' + whole[middle:]


@pytest.mark.parametrize(
    "what",
    ["an event that is none", "no number", "torn within an event", "an end in the middle", "an event of megabytes"],
)
def test_what_is_damaged_is_read_alike(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made.json"
    path.write_bytes(damaged(what))
    alone, together, _ = both(path, monkeypatch)
    assert together == alone and alone["operators.start"]


def test_packed_data_that_breaks_off_is_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(text(), 1)
    path = tmp_path / "made.json.gz"
    path.write_bytes(packed[: len(packed) // 2])
    alone, together, ways = both(path, monkeypatch)
    assert together == alone and "breaks off" in alone["notices"][0] and ways == []


def test_a_copy_that_dies_leaves_the_work_to_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made.json"
    path.write_bytes(text())
    ours = os.getpid()

    def dies(*given: Any) -> Any:
        assert os.getpid() != ours
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(parallel, "_answer", dies)
    alone, together, ways = both(path, monkeypatch)
    assert together == alone and ways == ["by itself"]


def test_without_room_for_copies_one_process_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made.json"
    path.write_bytes(text())

    def no_room(*given: Any) -> Any:
        raise OSError("no room")

    monkeypatch.setattr(parallel, "mmap", no_room)
    alone, together, ways = both(path, monkeypatch)
    assert together == alone and ways == ["by itself"]


def test_a_trace_that_is_too_long_is_cut_and_no_copy_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made.json"
    path.write_bytes(text())
    monkeypatch.setattr(read, "MOST_EVENTS", 2000)
    monkeypatch.setattr(read, "processes_for", lambda _: 3)
    made: list[Any] = []
    begin = parallel._Copies.__init__
    monkeypatch.setattr(parallel._Copies, "__init__", lambda self, *given: (made.append(self), begin(self, *given))[1])
    recording = read_trace(path, 4096)
    assert "very long" in recording.notices[0]
    assert made and all(process.exitcode is not None for copies in made for process in copies._processes)


def test_what_is_no_trace_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "processes_for", lambda _: 2)
    path = tmp_path / "made.json"
    path.write_text(json.dumps({"a": list(range(100_000))}))
    with pytest.raises(ProfError, match="traceEvents"):
        read_trace(path)


def test_small_files_and_copies_themselves_are_read_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    path.write_bytes(text())
    assert parallel.processes_for(path) == 1
    assert parallel.processes_for(tmp_path / "missing.json") == 1
    assert split.batches is parallel.batches  # the same turns of the collector
