"""What is good in a damaged record is read; what is not is told."""

from __future__ import annotations

import json
import struct
import tempfile
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tape_builder import MS, START_NS, Tape, write_segment

from profiler.record import layout, reader, tape
from profiler.record.reader import Cursor, Stream
from profiler.record.vocabulary import HEADER_BYTES, Kind, Name, code

PUSH, POP = code(Kind.PUSH, Name.BACKWARD), code(Kind.POP, Name.BACKWARD)


def pairs(count: int) -> list[tuple[int, int]]:
    return [(PUSH if number % 2 == 0 else POP, START_NS + number * MS) for number in range(count)]


def test_events_end_at_the_first_slot_that_was_never_written(tmp_path: Path) -> None:
    path = tmp_path / "thread-1-000000.tape"
    write_segment(path, pairs(7))
    events, notice = reader.read_segment(path)
    assert events.tolist() == [list(event) for event in pairs(7)]
    assert notice is None


def test_a_segment_longer_than_the_first_read_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "thread-1-000000.tape"
    write_segment(path, pairs(50_000))
    assert len(reader.read_segment(path)[0]) == 50_000


def test_a_torn_last_event_is_dropped_and_not_called_damage(tmp_path: Path) -> None:
    path = tmp_path / "thread-1-000000.tape"
    write_segment(path, [*pairs(4), (PUSH, 0)])
    events, notice = reader.read_segment(path)
    assert (len(events), notice) == (4, None)


def test_a_value_of_zero_is_a_value(tmp_path: Path) -> None:
    path = tmp_path / "sampler-000000.tape"
    write_segment(path, [*pairs(2), (code(Kind.VALUE, Name.CPU_NS), 0)])
    assert len(reader.read_segment(path)[0]) == 3


def test_a_slot_that_was_taken_and_never_filled_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "thread-1-000000.tape"
    write_segment(path, [*pairs(4), (0, 0), *[(each, time + 9 * MS) for each, time in pairs(2)]])
    events, notice = reader.read_segment(path)
    assert (len(events), notice) == (6, None)


def test_damaged_events_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "thread-1-000000.tape"
    write_segment(path, [*pairs(4), (77, START_NS), (PUSH, 2**63), (POP, 12), *pairs(1)])
    events, notice = reader.read_segment(path)
    assert len(events) == 5
    assert notice == "thread-1-000000.tape holds 3 damaged events, which were skipped"


def test_a_file_that_is_no_segment_is_skipped_with_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "thread-1-000000.tape"
    for content in (b"", b"short", b"x" * 5000):
        path.write_bytes(content)
        events, notice = reader.read_segment(path)
        assert len(events) == 0
        assert notice == "thread-1-000000.tape is not a readable tape segment and was skipped"
    assert reader.read_segment(tmp_path / "absent-000000.tape")[1] is not None


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 64 + 16 * 20 + 40))
def test_a_truncated_segment_gives_the_events_before_the_cut(cut: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "thread-1-000000.tape"
        write_segment(path, pairs(20), capacity=40)
        path.write_bytes(path.read_bytes()[:cut])
        expected = max(0, min(20, (cut - HEADER_BYTES) // 16))
        assert reader.read_segment(path)[0].tolist() == [list(event) for event in pairs(20)[:expected]]


def test_the_header_says_who_wrote_and_when(tmp_path: Path) -> None:
    path = tmp_path / "thread-1-000003.tape"
    write_segment(path, pairs(1), seq=3, created_ns=START_NS, pid=77)
    header = reader.read_header(path)
    assert header is not None
    assert (header.pid, header.thread_id, header.seq, header.created_perf_ns) == (77, 1, 3, START_NS)


@settings(max_examples=60, deadline=None)
@given(segment=st.integers(1, 9), steps=st.lists(st.integers(1, 13), max_size=30))
def test_a_stream_is_read_forward_across_segments_in_any_portions(segment: int, steps: list[int]) -> None:
    with tempfile.TemporaryDirectory() as place:
        tape = Tape("thread-1")
        tape.events = pairs(40)
        tape.write(Path(place), segment)
        paths = layout.tapes(Path(place))["thread-1"]
        stream, seen = Stream("thread-1", paths), 0
        for step in steps:
            events, at_break = stream.peek(step)
            assert not at_break
            assert events[:, 1].tolist() == [time for _, time in pairs(40)[seen : seen + step]]
            stream.advance(len(events))
            seen += len(events)
            # a second reader goes on from the cursor
            stream = Stream("thread-1", paths, stream.cursor)


def test_a_gap_in_the_numbering_is_a_break(tmp_path: Path) -> None:
    tape = Tape("thread-1")
    tape.events = pairs(30)
    paths = tape.write(tmp_path, 10)
    paths[1].unlink()
    stream = Stream("thread-1", layout.tapes(tmp_path)["thread-1"])
    events, at_break = stream.peek(100)
    assert (len(events), at_break) == (10, True)
    stream.advance(10)
    assert stream.skip_break() == 1
    events, at_break = stream.peek(100)
    assert (events[0, 1], len(events), at_break) == (START_NS + 20 * MS, 10, False)


def test_a_stream_whose_beginning_is_missing_starts_with_a_break(tmp_path: Path) -> None:
    tape = Tape("thread-1")
    tape.events = pairs(30)
    for path in tape.write(tmp_path, 10)[:2]:
        path.unlink()
    stream = Stream("thread-1", layout.tapes(tmp_path)["thread-1"])
    assert stream.peek(100)[1]
    assert stream.skip_break() == 2
    assert len(stream.peek(100)[0]) == 10


def test_segments_before_the_cursor_are_never_read(tmp_path: Path) -> None:
    tape = Tape("thread-1")
    tape.events = pairs(30)
    paths = tape.write(tmp_path, 10)
    paths[0].write_bytes(b"garbage")
    stream = Stream("thread-1", paths, Cursor(1, 4))
    assert len(stream.peek(100)[0]) == 16
    assert stream.notices == []


def test_notes_survive_a_torn_last_line_and_damaged_ones_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps({"kind": "setting", "name": "a"}), "{not json", "[1, 2]", json.dumps({"kind": "cost"})]
    (tmp_path / layout.NOTES).write_text("\n".join(lines) + '\n{"kind": "sit')
    notes, damaged = reader.read_notes(tmp_path)
    assert [note["kind"] for note in notes] == ["setting", "cost"]
    assert damaged == 2
    assert reader.read_notes(tmp_path / "absent") == ([], 0)


def test_processes_that_did_not_check_in_properly_are_left_out(tmp_path: Path) -> None:
    (tmp_path / layout.PROCESSES).mkdir()
    for name, text in (("1", '{"pid": 1, "rank": 0}'), ("2", "{"), ("3", "[]"), ("4", '{"pid": "x"}')):
        (tmp_path / layout.PROCESSES / f"{name}.json").write_text(text)
    assert reader.read_processes(tmp_path) == {1: {"pid": 1, "rank": 0}}


def test_a_segment_written_by_another_clock_than_its_headers_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "thread-1-000000.tape"
    write_segment(path, [(PUSH, 5), (POP, 9)], created_ns=START_NS)
    assert reader.read_segment(path)[0].tolist() == [[PUSH, 5], [POP, 9]]
    assert struct.calcsize("<8sIIIIQQ") <= HEADER_BYTES


def test_events_that_were_kept_for_long_before_their_segment_was_made_are_read(tmp_path: Path) -> None:
    writer = tape.Tape(lambda: tmp_path, "thread-0")
    now_ns = time.perf_counter_ns()
    times_ns = [now_ns - (500 - number) * 10**8 for number in range(50)] + [
        now_ns - 200 + number for number in range(200)
    ]
    words = [word for time_ns in times_ns for word in (code(Kind.MARK, Name.ENDED), time_ns)]
    writer.write_words(words)
    writer.kill()
    stream = reader.read_stream(tmp_path, "thread-0")
    assert stream[:, 1].tolist() == words[1::2]
