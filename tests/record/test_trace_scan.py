"""The quick way reads what msgspec reads, whatever is wrong with the trace, and most of it."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from trace_builder import TraceBuilder, training, usual_host

from profiler.record.trace import scan, split
from profiler.record.trace.event import UNREADABLE, texts_of
from profiler.record.trace.numbers import Numbers
from profiler.record.trace.read import read_trace
from profiler.record.trace.recording import Recording
from profiler.record.trace.rows import Rows, rows_of_events

TABLES = ("operators", "calls", "device", "python", "memory")
_NAMED = {"name", "collective", "dtype", "frame"}
STEPS = 300


pytestmark = pytest.mark.skipif(scan._scan is None, reason="the quick way was not compiled")


def step(builder: TraceBuilder, start: float) -> None:
    """With everything that a reader asks for."""
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
    for table in TABLES:
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
    others = ("origin_ns", "base_ns", "length_ns", "numbering", "distributed", "devices", "unpacked_bytes")
    return found | {name: getattr(recording, name) for name in (*others, "notices", "lost")}


def both(path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int = 4096) -> tuple[dict[str, Any], dict[str, Any]]:
    """As msgspec reads it, and as the quick way does."""
    quick = named(read_trace(path, block_bytes))
    with monkeypatch.context() as patch:
        patch.setattr(scan, "_scan", None)
        return named(read_trace(path, block_bytes)), quick


@pytest.mark.parametrize("packed", [False, True])
def test_it_is_the_same_recording(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ("made.json.gz" if packed else "made.json")
    path.write_bytes(gzip.compress(text(), 1) if packed else text())
    slow, quick = both(path, monkeypatch)
    assert len(slow["python.name"]) == 2 * STEPS + 1 and slow["memory.time"]
    assert set(slow["operators.frame"]) > {"", "model_2.py(5): forward"}
    assert quick == slow


@pytest.mark.slow
def test_recorded_traces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd events come after the others of their piece: there the order tells nothing."""
    folder = Path(os.environ.get("PROF_TRACES") or Path(__file__).parents[3] / "shared" / "traces")
    paths = sorted(folder.glob("*.json.gz"))
    if not paths:
        pytest.skip(f"no recorded traces in {folder}: set PROF_TRACES to their folder")
    for path in paths:
        slow, quick = both(path, monkeypatch, scan.PIECE_BYTES)
        for table in TABLES:
            columns = [name for name in slow if name.startswith(f"{table}.")]
            rows = [sorted(zip(*(map(repr, found[name]) for name in columns), strict=True)) for found in (slow, quick)]
            assert rows[0] == rows[1], (path.name, table)
        others = [name for name in slow if "." not in name]
        assert [quick[name] for name in others] == [slow[name] for name in others], path.name


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
    slow, quick = both(path, monkeypatch)
    assert quick == slow and slow["operators.start"]


def test_packed_data_that_breaks_off_is_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(text(), 1)
    path = tmp_path / "made.json.gz"
    path.write_bytes(packed[: len(packed) // 2])
    slow, quick = both(path, monkeypatch)
    assert quick == slow and "breaks off" in slow["notices"][0]


def rows_by_msgspec(array: bytes, numbers: Numbers) -> list[Rows]:
    events, rest, ended = split._decode(array, split.Document())
    assert not rest and not ended
    return list(rows_of_events(events, numbers))


def cells(given: list[Rows]) -> list[str]:
    """All rows that count, in an order that does not depend on the way they were read."""
    found = []
    for rows in given:
        columns = {"start": rows.start, "length": rows.length, **rows.columns}
        lists = [columns[name].tolist() for name in sorted(columns)]
        found += [f"{rows.table} {cell}" for cell in zip(*lists, strict=True)]
    return sorted(found)


def by_both_ways(array: bytes) -> tuple[list[str], list[str]] | None:
    """The rows as msgspec reads them and as the quick way does; None where that leaves the text to msgspec."""
    numbers = Numbers()
    scanned = scan.scan(array, numbers)
    if scanned is None:
        return None
    odd = b"[" + b",".join(scanned.odd) + b"]"
    quick = [*scan.rows_of(scanned), *(rows_by_msgspec(odd, numbers) if scanned.odd else [])]
    return cells(rows_by_msgspec(array, numbers)), cells(quick)


WORDS = st.one_of(
    st.sampled_from(["", "aten::mm", "stream 7", "[memory]", "a\\b", 'say "x"', "é", "\U0001f600"]), st.text()
)
LARGE = st.sampled_from([10**18, 10**19, 2**53 + 1, 2**63, 2**63 - 1, -(2**63), -(10**18), 2**70])
WHOLE = st.one_of(
    st.integers(-3, 50), st.integers(-3, 50), st.integers(-(2**63), 2**63 - 1), LARGE, st.integers().map(str)
)
TIMES = st.one_of(
    st.integers(0, 10**16),
    st.floats(allow_nan=False, allow_infinity=False),
    st.builds("@{}.{}@".format, st.integers(0, 2**53), st.text("0123456789", min_size=1, max_size=9)),
)
ODD = st.one_of(st.none(), st.booleans(), WHOLE, TIMES, WORDS, st.just("12"), st.just([1, {"a": "}]"}]), st.just({}))
KINDS = [
    "cpu_op",
    "user_annotation",
    "cuda_runtime",
    "kernel",
    "gpu_memcpy",
    "gpu_memset",
    "python_function",
    "Trace",
    "x",
]
SHAPE = st.lists(st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=3)), max_size=3)
KEYS = ["External id", "external id", "correlation", "device", "stream", "bytes", "size", "Ev Idx", "Group size"]
KEYS += ["Profiler Event Index", "In msg nelems", "Python id", "Python parent id", "unknown", "Trace name"]
ARGS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(KEYS, WHOLE),
        **dict.fromkeys(("Input Dims", "Input dims", "Input type", "Concrete Inputs"), SHAPE),
        **dict.fromkeys(("Collective name", "dtype", "Call stack"), WORDS),
    },
)
FIELDS = {
    "ph": st.just("X"),
    "cat": st.sampled_from(KINDS),
    "name": st.one_of(st.sampled_from(["aten::mm", "aten::convolution"]), WORDS),
    "pid": st.integers(0, 3),
    "tid": st.integers(0, 3),
    "ts": TIMES,
    "dur": TIMES,
    "args": ARGS,
}


def with_odd(event: dict[str, Any], field: str, within: str, value: Any) -> dict[str, Any]:
    """An event of which one field is odd, or one of what it says beside its time."""
    if field == "args" and within:
        return {**event, "args": {**event["args"], within: value}}
    return {**event, field: value}


def as_numbers(text: str) -> bytes:
    """With numbers of more digits than a float has, which json would not write."""
    return re.sub(r'"@([0-9.]+)@"', r"\1", text).encode()


SOUND = st.fixed_dictionaries(FIELDS)
EVENTS = st.one_of(
    SOUND,
    SOUND,
    st.builds(with_odd, SOUND, st.sampled_from([*FIELDS, "args", "id"]), st.sampled_from([*KEYS, "dtype", ""]), ODD),
    st.fixed_dictionaries({}, optional={**FIELDS, "ph": st.sampled_from("isfMX")}),
)
DUMPED = st.builds(
    lambda events, indent, ascii_only: as_numbers(json.dumps(events, indent=indent, ensure_ascii=ascii_only)),
    st.lists(EVENTS, min_size=1, max_size=5),
    st.sampled_from([None, 1]),
    st.booleans(),
)


@settings(max_examples=600, deadline=None)
@drawn(DUMPED)
def test_whatever_events_say_both_ways_read_it_alike(array: bytes) -> None:
    found = by_both_ways(array)
    assert found is not None and found[0] == found[1]


@settings(max_examples=600, deadline=None)
@drawn(DUMPED, st.data())
def test_whatever_is_damaged_is_left_to_msgspec_or_read_alike(array: bytes, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(array) - 1))
        drop = data.draw(st.integers(0, 4))
        put = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b'"', b"{", b"}", b"]", b",", b"\\", b"\0"])))
        array = array[:at] + put + array[at + drop :] or b"["
    if scan.scan(array, Numbers()) is None:
        return
    mended = split._mended(array)  # it may let pass what is wrong within a word that nobody reads
    with contextlib.suppress(UNREADABLE):
        texts_of(mended)
        found = by_both_ways(mended)
        assert found is not None and found[0] == found[1]


def test_odd_events_that_can_not_be_read_are_counted_and_hide_no_other(tmp_path: Path) -> None:
    sound = '{"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": %s, "dur": 1}'
    odd = ['{"ph": null, "name": "\\u{", "ts": 1}', sound % "1e1", sound % "NaN", sound % '"12"']
    path = tmp_path / "odd.json"
    path.write_text('{"traceEvents": [' + ",".join([sound % 5, *odd, *[sound % n for n in range(6, 9)]]) + "]}")
    found = read_trace(path, 64)
    assert len(found.operators) == 6
    assert any("2 events could not be read" in notice for notice in found.notices)
