"""The reader of chrome traces: every schema, and every way in which a file can be broken."""

from __future__ import annotations

import gzip
import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_builder import BEGAN_US, PID, THREAD, TraceBuilder, training, usual_host

from profiler.errors import ProfError
from profiler.record.trace import read, split
from profiler.record.trace.read import label_of, read_trace
from profiler.record.trace.recording import Recording, Work
from profiler.record.trace.split import MOST_PENDING_BYTES

NEW_FILE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def busy(builder: TraceBuilder, start: float) -> None:
    usual_host(builder, start)
    builder.copy(start + 2, 1, called=start + 1, call_ms=0.5)
    for number in range(5):
        builder.kernel(start + 3 + number * 10, 9.5, launched=start + 2 + number)


def sample(steps: int = 3) -> TraceBuilder:
    return training(busy, steps, rank=1, world_size=2)


def read_text(tmp_path: Path, text: bytes | str, name: str = "made.json", **changes: Any) -> Recording:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_trace(path, **changes)


def read_events(tmp_path: Path, events: list[dict[str, Any]], **head: Any) -> Recording:
    return read_text(tmp_path, json.dumps({**head, "traceEvents": events}))


def kernel(**changes: Any) -> dict[str, Any]:
    args = {"device": 0, "stream": 7, "correlation": 1, **changes.pop("args", {})}
    return {
        "ph": "X",
        "cat": "kernel",
        "name": "k",
        "pid": 0,
        "tid": 7,
        "ts": BEGAN_US,
        "dur": 5.5,
        "args": args,
        **changes,
    }


def same(one: Recording, other: Recording) -> bool:
    columns = [
        (getattr(one.device, name), getattr(other.device, name)) for name in ("start", "end", "correlation", "stream")
    ]
    columns += [(one.operators.start, other.operators.start), (one.calls.end, other.calls.end)]
    names = [[recording.names[n] for n in recording.device.name.tolist()] for recording in (one, other)]
    return names[0] == names[1] and all(np.array_equal(left, right) for left, right in columns)


def test_a_trace_is_what_was_recorded(tmp_path: Path) -> None:
    recording = read_trace(sample().write(tmp_path / "worker3.pt.trace.json.gz"))
    assert recording.label == "worker3"
    assert recording.notices == ()
    assert len(recording.device) == 3 * 6
    assert np.count_nonzero(recording.device.work == Work.COPY) == 3
    assert recording.distributed.rank == 1 and recording.distributed.world_size == 2
    assert recording.numbering is not None and recording.numbering.seen == len(recording.operators)
    first = int(np.argmin(recording.device.start[recording.device.work == Work.KERNEL]))
    kernels = recording.device.start[recording.device.work == Work.KERNEL]
    assert kernels[first] == 3_000_000
    assert recording.origin_ns == BEGAN_US * 1000


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1000, 1 << 20])
def test_how_the_file_is_cut_into_blocks_makes_no_difference(tmp_path: Path, block_bytes: int) -> None:
    path = sample(1 if block_bytes == 1 else 3).write(tmp_path / "made.json")
    assert same(read_trace(path), read_trace(path, block_bytes))


def test_packed_and_plain_are_the_same(tmp_path: Path) -> None:
    builder = sample()
    assert same(read_trace(builder.write(tmp_path / "a.json")), read_trace(builder.write(tmp_path / "b.json.gz")))


def test_a_packed_file_is_known_by_its_content(tmp_path: Path) -> None:
    assert len(read_text(tmp_path, gzip.compress(sample().text()), "no-ending").device) == 18


def test_the_spelling_of_2021(tmp_path: Path) -> None:
    """Upper-case categories, threads and streams as strings, external ids in lower case."""
    events = [
        {"ph": "X", "cat": "Operator", "name": "aten::add", "pid": 9, "tid": "140", "ts": BEGAN_US, "dur": 40,
         "args": {"External id": 5}},
        {"ph": "X", "cat": "Runtime", "name": "cudaLaunchKernel", "pid": 9, "tid": "140", "ts": BEGAN_US + 5, "dur": 6,
         "args": {"correlation": 77, "external id": 5}},
        {"ph": "s", "id": 77, "pid": 9, "tid": 140, "ts": BEGAN_US + 5, "cat": "async", "name": "launch"},
        {"ph": "X", "cat": "Kernel", "name": "add_kernel", "pid": 0, "tid": "stream 7", "ts": BEGAN_US + 20, "dur": 3,
         "args": {"device": 0, "correlation": 77, "external id": 5}},
        {"ph": "X", "cat": "Memset", "name": "Memset", "pid": 0, "tid": "stream 7", "ts": BEGAN_US + 30, "dur": 1,
         "args": {"device": 0}},
        {"ph": "X", "cat": "Trace", "name": "PyTorch Profiler (0)", "pid": "Traces", "tid": "PyTorch Profiler",
         "ts": BEGAN_US - 900, "dur": 5000},
    ]  # fmt: skip
    recording = read_events(tmp_path, events)
    assert recording.device.stream.tolist() == [7, 7]
    assert recording.device.correlation.tolist() == [77, -1]
    assert recording.device.external.tolist() == [5, -1]
    assert recording.calls.track.tolist() == recording.operators.track.tolist()
    assert recording.length_ns == 40_000  # the recording as an event counts for nothing


def test_a_thread_is_one_whether_its_number_is_a_string_or_not(tmp_path: Path) -> None:
    events = [{**kernel(cat="cpu_op", ts=BEGAN_US + n), "pid": 9, "tid": tid} for n, tid in enumerate((7, "7"))]
    assert len(read_events(tmp_path, events).tracks) == 1


@pytest.mark.parametrize("runtime", ["cuda_runtime", "cuda_driver", "xpu_runtime", "privateuse1_runtime", "Runtime"])
def test_calls_of_any_makers_runtime(tmp_path: Path, runtime: str) -> None:
    call = {**kernel(cat=runtime, name="launch"), "pid": 9, "tid": 9}
    assert len(read_events(tmp_path, [call, kernel()]).calls) == 1


def test_fractions_of_a_microsecond_are_kept(tmp_path: Path) -> None:
    events = [kernel(ts=4_458_676_522_690.655, dur=156.777), kernel(ts=4_458_676_522_700.5, dur=0.001)]
    recording = read_events(tmp_path, events, displayTimeUnit="ns", baseTimeNanoseconds=1_711_964_646_000_000_000)
    assert (recording.device.end - recording.device.start).tolist() == [156_777, 1]
    assert int(recording.device.start[1]) == pytest.approx(9_845, abs=1)
    assert recording.base_ns == 1_711_964_646_000_000_000


def test_a_bare_list_of_events_is_a_trace(tmp_path: Path) -> None:
    assert len(read_text(tmp_path, json.dumps([kernel(), kernel()])).device) == 2


def test_what_stands_after_the_events_is_read_too(tmp_path: Path) -> None:
    properties = [{"id": 0, "name": "H100", "totalGlobalMem": 80 << 30}, {"id": 1, "name": "H100"}]
    document = {"traceEvents": [kernel()], "deviceProperties": properties, "distributedInfo": "{'rank': 5}"}
    recording = read_text(tmp_path, json.dumps(document))
    assert recording.devices == {0: "H100", 1: "H100"}
    assert recording.capacities == {0: 80 << 30}
    assert recording.distributed.rank == 5


def test_the_rank_may_stand_in_the_files_name(tmp_path: Path) -> None:
    assert read_text(tmp_path, json.dumps([kernel()]), "job_rank-12.json").distributed.rank == 12


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_no_obstacle(tmp_path: Path, word: str) -> None:
    text = json.dumps([kernel(args={"occupancy": "@"}), kernel(ts="@"), kernel()]).replace('"@"', word)
    recording = read_text(tmp_path, text)
    assert len(recording.device) == 2
    assert any("1 event could not be read" in notice for notice in recording.notices)


@pytest.mark.parametrize("duration", [-1, -1e300, 1e18, 1e300, None, "long"])
def test_durations_that_can_not_be_are_left_out(tmp_path: Path, duration: Any) -> None:
    recording = read_events(tmp_path, [kernel(dur=duration), kernel()])
    assert len(recording.device) == 1
    assert recording.notices == ("1 event could not be read and were left out",)


def test_an_event_at_the_beginning_of_time_does_not_stretch_the_span(tmp_path: Path) -> None:
    events = [kernel(ts=BEGAN_US + n) for n in range(9)]
    recording = read_events(tmp_path, [*events, kernel(ts=0)])
    assert len(recording.device) == 9
    assert any("more than a day" in notice for notice in recording.notices)


@pytest.mark.parametrize(
    "args",
    [None, [], "none", 7, {"correlation": "0x1f"}, {"correlation": 1e300}, {"correlation": {}}, {"stream": None}],
)
def test_arguments_of_any_type_are_borne(tmp_path: Path, args: Any) -> None:
    odd = {**kernel(), "args": args}
    assert len(read_events(tmp_path, [kernel(), odd, kernel()]).device) == 3


def test_numbers_may_be_strings(tmp_path: Path) -> None:
    odd = kernel(ts=str(BEGAN_US), dur="5.5", args={"correlation": "42", "bytes": "2560"})
    device = read_events(tmp_path, [odd]).device
    assert (device.correlation[0], device.bytes[0], device.end[0]) == (42, 2560, 5500)


def test_objects_within_arguments_do_not_end_an_event(tmp_path: Path) -> None:
    nested = kernel(args={"groups": [{"ranks": [0, 1]}, {"ranks": [2]}], "more": {"a": [{}, {}]}})
    for block_bytes in (50, 1 << 20):
        text = json.dumps({"traceEvents": [nested] * 20, "traceName": "x"})
        assert len(read_text(tmp_path, text, block_bytes=block_bytes).device) == 20


def test_names_with_single_backslashes_and_line_breaks_are_mended(tmp_path: Path) -> None:
    text = json.dumps([kernel(), kernel(name="@"), kernel()]).replace("@", "C:\\Users\\ada\n\x01")
    recording = read_text(tmp_path, text)
    assert len(recording.device) == 3


def test_stray_bytes_in_a_name_are_mended(tmp_path: Path) -> None:
    text = json.dumps([kernel(), kernel(name="@")]).encode().replace(b"@", b"caf\xe9")
    assert len(read_text(tmp_path, text).device) == 2


def test_an_object_that_is_damaged_hides_no_other(tmp_path: Path) -> None:
    events = [json.dumps(kernel()) for _ in range(30)]
    events[10] = events[10].replace('"args": {', '"args": {{{')
    recording = read_text(tmp_path, f'{{"traceEvents": [{", ".join(events)}]}}')
    assert len(recording.device) == 29
    assert recording.notices == ("1 event could not be read and were left out",)


@NEW_FILE
@given(share=st.floats(0, 1))
def test_a_file_that_breaks_off_gives_what_is_complete(tmp_path: Path, share: float) -> None:
    text = sample().text()
    cut = text[: int(share * len(text))]
    whole = read_text(tmp_path, text)
    try:
        recording = read_text(tmp_path, cut, "cut.json", block_bytes=777)
    except ProfError as error:
        assert len(str(error).splitlines()) == 1
        assert share < 0.2
        return
    assert len(recording.operators) <= len(whole.operators)
    assert np.array_equal(recording.operators.start, whole.operators.start[: len(recording.operators)])
    if text.rindex(b"}", 0, text.rindex(b"]")) >= len(cut):
        assert any("breaks off" in notice for notice in recording.notices)


@NEW_FILE
@given(share=st.floats(0.3, 0.99))
def test_packed_data_that_breaks_off_gives_what_is_complete(tmp_path: Path, share: float) -> None:
    packed = gzip.compress(sample(40).text())
    recording = read_text(tmp_path, packed[: int(share * len(packed))], "cut.json.gz")
    assert 0 < len(recording.device) <= 240
    assert any("ends too early" in notice for notice in recording.notices)


@NEW_FILE
@given(place=st.floats(0.01, 0.99), octet=st.integers(0, 255))
def test_packed_data_that_is_damaged_is_said_to_be(tmp_path: Path, place: float, octet: int) -> None:
    packed = bytearray(gzip.compress(sample(40).text()))
    packed[int(place * len(packed))] ^= octet
    try:
        read_text(tmp_path, bytes(packed), "bad.json.gz")
    except ProfError as error:
        assert len(str(error).splitlines()) == 1


@NEW_FILE
@given(place=st.integers(0, 5000), stray=st.binary(min_size=1, max_size=8))
def test_stray_bytes_anywhere_are_borne(tmp_path: Path, place: int, stray: bytes) -> None:
    text = sample(1).text()
    at = min(place, len(text))
    try:
        recording = read_text(tmp_path, text[:at] + stray + text[at:])
    except ProfError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert len(recording.operators) + len(recording.device) > 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"   \n", "is empty"),
        (b"hello", "no JSON"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"SQLite format 3\x00", "SQLite"),
        (b"\x80\x05\x95", "a pickle"),
        (b"{}", "holds no traceEvents"),
        (b'{"traceEvents": 5}', "holds no traceEvents"),
        (b'{"traceEvents": []}', "holds no event"),
        (b'{"traceEvents": [', "holds no event"),
        (b'{"traceEvents": [{"ph": "M"}]}', "holds no event"),
        (b"[" * 100_000, "holds no event"),
        (b'{"a": ' * 100_000, "holds no traceEvents"),
        (gzip.compress(b"", mtime=0), "holds no traceEvents"),
    ],
)
def test_what_is_no_trace_is_told_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ProfError) as error:
        read_text(tmp_path, content, "made.json")
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_events_without_a_believable_time_are_not_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ProfError, match="none of its 3 events can be read or has a time") as told:
        read_events(tmp_path, [kernel(dur=-5), kernel(ts="soon"), kernel(ts=1e300)])
    assert "nothing ran" not in str(told.value)
    with pytest.raises(ProfError, match="recorded while nothing ran"):
        read_events(tmp_path, [])


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProfError, match="can't be read"):
        read_trace(tmp_path / "missing.json")
    with pytest.raises(ProfError, match="can't be read"):
        read_trace(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts differently elsewhere")
@pytest.mark.parametrize("filling", [b" ", b'{"traceEvents": [{"ph": "X", "name": "' + b"a"])
def test_a_bomb_takes_bounded_memory(tmp_path: Path, filling: bytes) -> None:
    """A gigabyte of nothing in a megabyte."""
    path = tmp_path / "bomb.json.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"traceEvents": [' if filling == b" " else filling)
        for _ in range(256):
            file.write(filling[-1:] * (4 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ProfError):
        read_trace(path)
    grew = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grew < 6 * MOST_PENDING_BYTES


@pytest.mark.parametrize(
    ("text", "looks"),
    [
        (b'{"annotations": [' + b'{"a": 1},' * 900_000, "_start"),
        (b'{"traceEvents": [{"ph": "X", "name": "' + b"a" * (8 << 20), "_last_border"),
    ],
)
def test_a_text_without_events_is_looked_at_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, looks: str
) -> None:
    """A file of another kind, or one endless event: each octet is looked at some times, not once for each block."""
    looked, real = [], getattr(split, looks)

    def counting(text: bytes, *others: Any) -> Any:
        looked.append(len(text))
        return real(text, *others)

    monkeypatch.setattr(split, looks, counting)
    with pytest.raises(ProfError):
        read_text(tmp_path, text)
    assert 0 < sum(looked) < 5 * len(text)


def test_very_many_threads(tmp_path: Path) -> None:
    events = [{**kernel(cat="cpu_op"), "pid": PID, "tid": THREAD + number} for number in range(100_000)]
    recording = read_events(tmp_path, events)
    assert len(recording.tracks) == 100_000


def test_stacks_do_not_hide_that_nothing_was_taken_out(tmp_path: Path) -> None:
    """With `with_stack` functions share the numbering of operators."""
    events = [
        {**kernel(cat="python_function" if n % 5 else "cpu_op", name="f", args={"Ev Idx": n}), "pid": 9, "tid": 9}
        for n in range(100)
    ]
    recording = read_events(tmp_path, events)
    assert not recording.thinned
    assert len(recording.operators) == 20


def test_memory_of_the_device_is_read(tmp_path: Path) -> None:
    def reading(at: int, device_type: int, allocated: int) -> dict[str, Any]:
        args = {
            "Device Type": device_type,
            "Device Id": 0,
            "Bytes": 5,
            "Total Allocated": allocated,
            "Total Reserved": 99,
        }
        return {
            "ph": "i",
            "cat": "cpu_instant_event",
            "name": "[memory]",
            "ts": BEGAN_US + at,
            "pid": 9,
            "tid": 9,
            "args": args,
        }

    recording = read_events(tmp_path, [kernel(), reading(3, 1, 30), reading(2, 1, 20), reading(1, 0, 10)])
    assert recording.memory.allocated.tolist() == [20, 30]


@pytest.mark.parametrize(
    ("name", "label"),
    [("a.pt.trace.json.gz", "a"), ("b.json", "b"), ("c.json.gz", "c"), ("d", "d"), (".json", ".json")],
)
def test_a_trace_is_called_by_its_name_without_endings(name: str, label: str) -> None:
    assert label_of(Path(name)) == label


@pytest.mark.parametrize(
    "filler",
    ['{"ph":"X"}', '{"ph":"X","ts":1,"dur":"x"}', '{"ph":"X","ts":9e17,"dur":1}', '{"ph":"f","id":1,"ts":1}'],
)
def test_a_long_file_ends_whatever_fills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filler: str) -> None:
    monkeypatch.setattr(read, "MOST_EVENTS", 1000)
    monkeypatch.setattr(read, "MOST_OF_ANY_KIND", 4000)
    text = f'{{"traceEvents": [{json.dumps(kernel())},' + ",".join([filler] * 50_000) + "]}"
    found = read_text(tmp_path, text, block_bytes=4096)
    assert len(found.device) == 1
    assert any("very long: only its first" in notice for notice in found.notices)
    assert found.unpacked_bytes < len(text) / 2
