"""The device's track against a device that is as fast as the host: then its times must be the host's, to the ns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tape_builder import MS, Tape
from test_fold import BLOCK, SEGMENT, SHAPES, rich_run, told

from profiler.analysis import folded
from profiler.analysis.block import Moments
from profiler.analysis.device_track import read_device
from profiler.analysis.fold import collect, fold
from profiler.record import layout
from profiler.record.vocabulary import DeviceEvent, Kind, Name, code

LAG_NS = 30 * MS


def device_tape(training: Tape, boundaries: int, pause: int) -> Tape:
    """Windows of so many boundaries, with so many left out between them, of a device that lags by nothing."""
    tape = Tape("device", clock=training)
    timed = [time for word, time in training.events if word & 0xFF in (Kind.PUSH, Kind.POP)]
    for start in range(0, len(timed) - boundaries, boundaries + pause):
        write_window(tape, timed[start : start + boundaries], [time - timed[start] for time in timed[start:]])
    return tape


def write_window(tape: Tape, host_ns: list[int], device_ns: list[int]) -> None:
    for at, time in enumerate(host_ns):
        detail = DeviceEvent.FIRST if at == 0 else DeviceEvent.LAST if at == len(host_ns) - 1 else 0
        tape.events.append((code(Kind.MARK, Name.DEVICE_EVENT, detail), time))
        tape.value(Name.DEVICE_NS, device_ns[at])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_device_as_fast_as_the_host_has_the_hosts_times(tmp_path: Path, shape: str) -> None:
    tapes = rich_run(7, 90, shape)
    for tape in [*tapes, device_tape(tapes[0], 60, 17)]:
        tape.write(tmp_path)
    found = collect(tmp_path, final=True, block_events=BLOCK)
    host, device = found.steps.columns(), found.device_steps.columns()
    assert len(device["index"]) > 15
    rows = np.searchsorted(host["index"], device["index"])
    names = [name for name in {*host, *device} if name.startswith("part_") or name == "wall_ns"]
    nothing = np.zeros(len(rows), dtype=np.int64)
    for name in names:
        theirs = host[name][rows] if name in host else nothing
        assert device.get(name, nothing).tolist() == theirs.tolist(), name


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_that_come_late_are_folded_like_those_that_come_in_time(tmp_path: Path, shape: str) -> None:
    tapes = rich_run(5, 80, shape)
    training = tapes[0]
    device = device_tape(training, 50, 11)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for tape in [*tapes, device]:
        tape.write(whole, SEGMENT)
    at_once = told(collect(whole, final=True, block_events=BLOCK))
    for written in range(5 * SEGMENT, len(training.events), 7 * SEGMENT):
        training.write(pieces, SEGMENT, first_segment(pieces, training) * SEGMENT, written)
        ends = [at for at, (word, _) in enumerate(device.events) if word >> 24 & 0xFF == DeviceEvent.LAST]
        now = training.events[written - 1][1]
        stop = max([end + 2 for end in ends if device.events[end][1] + LAG_NS <= now], default=0)
        device.write(pieces, SEGMENT, first_segment(pieces, device) * SEGMENT, stop)
        fold(pieces, block_events=BLOCK)
    training.write(pieces, SEGMENT, first_segment(pieces, training) * SEGMENT)
    for tape in [device, *tapes[1:]]:
        tape.write(pieces, SEGMENT, first_segment(pieces, tape) * SEGMENT)
    in_pieces = told(fold(pieces, final=True, block_events=BLOCK))
    assert in_pieces["device_steps"] == at_once["device_steps"]
    assert len(folded.load(pieces / layout.FOLDED).recent.time_ns) > 0


def first_segment(directory: Path, tape: Tape) -> int:
    return folded.load(directory / layout.FOLDED).cursors.get(tape.stream, (0, 0))[0]


def three_steps() -> Moments:
    """Steps 0, 1, 2 of one boundary each 10 ns, all of them forward."""
    time = np.arange(0, 120, 10, dtype=np.int64)
    return Moments(time, np.full(12, 3, dtype=np.int16), np.repeat(np.arange(3, dtype=np.int64), 4))


def window(host_ns: list[int], device_ns: list[int]) -> Tape:
    tape = Tape("device")
    write_window(tape, host_ns, device_ns)
    return tape


def table(tape: Tape) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    return np.array(tape.events, dtype=np.uint64).reshape(-1, 2)


def test_only_steps_that_lie_within_the_window_count() -> None:
    tape = window([20, 30, 40, 50, 60, 70, 80, 90], [0, 1, 5, 9, 9, 30, 36, 40])
    consumed, steps = read_device(table(tape), three_steps(), None)
    assert consumed == 16
    assert {name: column.tolist() for name, column in steps.items()} == {
        "index": [1],
        "part_3": [31],
        "wall_ns": [31],
    }


def test_a_window_without_its_end_waits_or_is_left(tmp_path: Path) -> None:
    tape = window(list(range(20, 100, 10)), list(range(8)))
    torn = table(tape)[:11]
    assert read_device(torn, three_steps(), None)[1] == {}
    assert read_device(torn, three_steps(), 95) == (0, {})


def test_a_window_that_reaches_beyond_what_is_known_waits() -> None:
    tape = window(list(range(20, 100, 10)), list(range(8)))
    assert read_device(table(tape), three_steps(), 90) == (0, {})
    assert read_device(table(tape), three_steps(), 91)[0] == 16


def test_a_window_with_a_hole_in_it_is_left_out() -> None:
    tape = window(list(range(20, 100, 10)), list(range(8)))
    damaged = np.delete(table(tape), 5, axis=0)
    assert read_device(damaged, three_steps(), None) == (15, {})
