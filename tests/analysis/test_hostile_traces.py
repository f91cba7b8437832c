"""Traces that nobody recorded: each is judged, in part if need be, or refused in one sentence, in bounded time and
memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_builder import BEGAN_US, PID, THREAD, TraceBuilder, training, usual_host

from profiler.analysis.trace.facts import facts_of
from profiler.analysis.trace.many import read_traces
from profiler.errors import ProfError
from profiler.record.trace.read import read_trace
from profiler.rules.catalogue import judge

ABSURD = (-1, -1e300, 1e300, 2**63, -(2**63), 2**200, "12", "x", "", None, True, [], {}, [[[]]], {"a": {"b": 1}})
FIELDS = ("ph", "cat", "name", "pid", "tid", "ts", "dur", "args")


def step(builder: TraceBuilder, start: float) -> None:
    usual_host(builder, start)
    builder.copy(start + 2, 1, called=start + 1, call_ms=0.5)
    for number in range(5):
        builder.kernel(start + 3 + number * 10, 9.5, launched=start + 2 + number)
    builder.kernel(
        start + 60, 20, launched=start + 8, name="ncclDevKernel_AllReduce", stream=40, **{"Group size": 2, "dtype": "f"}
    )


def sample(rank: int = 0) -> dict[str, Any]:
    return training(step, 4, rank=rank, world_size=2).document()


def judged(*paths: Path) -> bool:
    """Whether there was something to judge; anything but a sentence of ours fails."""
    try:
        found = read_traces(paths)
    except ProfError as error:
        assert len(str(error).splitlines()) == 1
        return False
    assert judge(found).failures == ()
    return True


def write(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_trace_cut_at_any_octet_is_judged_or_refused(tmp_path: Path, packed: bool) -> None:
    whole = training(step, 1).write(tmp_path / ("whole.json.gz" if packed else "whole.json")).read_bytes()
    path = tmp_path / "cut.json"
    kept = []
    for end in range(0, len(whole), 1 if packed else 3):
        path.write_bytes(whole[:end])
        try:
            recording = read_trace(path)
        except ProfError as error:
            assert len(str(error).splitlines()) == 1
            continue
        assert "breaks off" in " ".join(recording.notices) or end > 0.9 * len(whole)
        kept.append(len(recording.operators) + len(recording.calls) + len(recording.device))
    assert kept == sorted(kept) and kept[-1] > 30  # the more of it there is, the more is used


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("every", [1, 3])
def test_any_field_may_hold_anything(tmp_path: Path, field: str, every: int) -> None:
    used = 0
    for value in ABSURD:
        document = sample()
        for event in document["traceEvents"][::every]:
            event[field] = value
        used += judged(write(tmp_path / "made.json", document))
    assert used > 0 or every == 1


@pytest.mark.parametrize("name", ["correlation", "External id", "Ev Idx", "stream", "device", "Group size"])
def test_any_number_may_be_anything_and_all_may_be_the_same(tmp_path: Path, name: str) -> None:
    for value in (*ABSURD, 7):
        document = sample()
        for event in document["traceEvents"]:
            event["args"][name] = value
        assert judged(write(tmp_path / "made.json", document))


def test_arrows_in_a_circle_and_from_nowhere_change_nothing(tmp_path: Path) -> None:
    document = sample()
    alone = facts_of(read_trace(write(tmp_path / "made.json", document))).facts
    for number in range(300):
        for phase, place in (("s", number), ("f", number + 1), ("t", (number * 7) % 300)):
            document["traceEvents"].append(
                {"ph": phase, "id": place % 100, "pid": PID, "tid": THREAD, "ts": BEGAN_US + place, "cat": "ac2g",
                 "name": "ac2g", "bp": "e"}
            )  # fmt: skip
    assert repr(facts_of(read_trace(write(tmp_path / "made.json", document))).facts) == repr(alone)


def test_objects_nested_without_end_are_left_out(tmp_path: Path) -> None:
    whole = json.dumps(sample())
    deep = '{"ph": "X", "ts": 1, "dur": 1, "args": ' + '{"a": ' * 200_000 + "1" + "}" * 200_000 + "}"
    path = tmp_path / "deep.json"
    path.write_text(whole.replace('"traceEvents": [', f'"traceEvents": [{deep}, ', 1))
    recording = read_trace(path)
    assert len(recording.operators) > 50
    assert any("could not be read" in notice for notice in recording.notices)


ODD = st.one_of(st.none(), st.integers(-5, 40), st.floats(allow_nan=False), st.integers(-(2**70), 2**70))
EXCHANGES = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.one_of(st.integers(0, 400), st.floats(0, 400)),
            "ms": st.one_of(st.integers(0, 60), ODD),
            "name": st.sampled_from(["ncclDevKernel_AllReduce", "ncclDevKernel_SendRecv", "gemm", "nccl"]),
            "said": st.dictionaries(st.sampled_from(["Group size", "In msg nelems", "Collective name"]), ODD),
        }
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ranks=st.lists(EXCHANGES, min_size=2, max_size=3), world_size=st.integers(0, 4), moved=ODD)
def test_whatever_ranks_exchange_they_are_compared_or_it_is_said_why_not(
    tmp_path: Path, ranks: list[list[dict[str, Any]]], world_size: int, moved: Any
) -> None:
    paths = []
    for rank, exchanges in enumerate(ranks):
        builder = training(usual_host, 4, rank=rank, world_size=world_size)
        for each in exchanges:
            builder.kernel(each["at"], 1, launched=max(0, each["at"] - 2), name=each["name"], stream=40, **each["said"])
            builder.events[-1]["dur"] = each["ms"]
        builder.head["baseTimeNanoseconds"] = moved if rank else 0
        paths.append(write(tmp_path / f"rank{rank}.json", builder.document()))
    found = read_traces(paths)
    assert judge(found).failures == ()
    trace = found.trace
    assert trace is not None and len(trace.ranks) == len(ranks)
    for row in trace.ranks:
        told = trace.clocks is not None and trace.clocks.aligned
        assert (row.offset_ms is not None) == told
        assert row.late_wait_ms is None or row.late_wait_ms >= 0
    assert (trace.transfer_ms is None) == ("waiting" in trace.withheld)


_READ = """
import resource, sys
from pathlib import Path
from profiler.analysis.trace.many import read_traces
from profiler.rules.catalogue import judge
found = read_traces([Path(sys.argv[1])])
assert judge(found).failures == ()
print(found.steps is not None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


def very_many(kind: str, count: int) -> Iterator[str]:
    for n in range(count):
        thread, name, args = THREAD, "aten::mm", ""
        if kind == "threads":
            thread = n
        elif kind == "names":
            name = f"n{n}"
        elif kind == "streams":
            args = f', "args": {{"device": {n}, "stream": {n}, "correlation": {n}}}'
        what = (
            f'"cat": "{"kernel" if kind == "streams" else "cpu_op"}", "name": "{name}", "pid": {PID}, "tid": {thread}'
        )
        yield f'{{"ph": "X", {what}, "ts": {n}, "dur": 1{args}}}'


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("threads", 1_000_000), ("names", 1_000_000), ("streams", 1_000_000)])
def test_very_many_of_anything_end_in_bounded_memory(tmp_path: Path, kind: str, count: int) -> None:
    path = tmp_path / "many.json"
    path.write_text('{"traceEvents": [' + ",\n".join(very_many(kind, count)) + "]}")
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[1]) < 2500  # MB
