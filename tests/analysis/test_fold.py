"""Folding as the run goes gives what folding at its end gives, and a fold that was killed changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tape_builder import MS, SEGMENT_EVENTS, START_NS, TRAIN, US, Tape, Training

from profiler.analysis import fold as folding
from profiler.analysis import folded
from profiler.analysis.fold import collect, fold, over_budget
from profiler.analysis.folded import Folded
from profiler.errors import ProfError
from profiler.record import layout
from profiler.record.vocabulary import Checkpoint, Name, Optimizer

SEGMENT = 40
BLOCK = 100


def rich_run(seed: int, steps: int, shape: str) -> list[Tape]:
    """A training with evaluation, checkpoints, pauses, a worker and a sampler, all on one clock."""
    random = np.random.default_rng(seed)
    tape = Training()
    sampler, worker = Tape("sampler", clock=tape), Tape("worker-77", clock=tape)

    def jitter() -> int:
        return int(random.integers(50, 400)) * US

    def fetch() -> None:
        worker.push(Name.FETCH, obj=1)
        tape.wait(20 * US)
        worker.push(Name.COLLATE)
        worker.value(Name.CPU_NS, 15 * US)
        worker.value(Name.RUN_DELAY_NS, 1 * US)
        tape.wait(5 * US)
        worker.pop(Name.COLLATE)
        worker.pop(Name.FETCH)
        worker.value(Name.ITEMS, 32)

    if shape != "no loader":
        tape.iterator(jitter())
    for number in range(steps):
        for _ in range(2 if shape == "accumulation" else 1):
            if shape != "no loader":
                with tape.open(Name.DATA_WAIT, 1, 1):
                    fetch()
            tape.forward(jitter())
            tape.wait(jitter())
            tape.backward(jitter())
        if shape == "gan":
            tape.update(jitter(), optimizer=2)
            tape.forward(jitter(), root=2)
            tape.backward(jitter())
        if shape != "lost pops" or number % 5:
            tape.update(jitter())
        else:
            tape.push(Name.OPTIMIZER, Optimizer.STEP, 1)
        if number % 3 == 0:
            sampler.sample(number % 7, rss_bytes=int(random.integers(1, 1 << 30)))
        if number % 6 == 0:
            sampler.resources(process_cpu_ns=tape.now // 2, system_idle_ns=tape.now)
        tape.wait(jitter())
        if number % 9 == 8:
            if shape != "no loader":
                for _ in range(3):
                    tape.batch(jitter(), loader=2)
                    tape.forward(jitter(), flags=0)
                tape.exhausted(loader=2)
            else:
                tape.forward(jitter(), flags=0)
            tape.call(Name.CHECKPOINT, jitter(), Checkpoint.SAVE)
        if number % 11 == 5:
            tape.pause(jitter())
    return [tape, sampler, worker]


def told(state: Folded) -> dict[str, object]:
    """All that a folded record says, in comparable form; only the places in the files are left out."""
    plain = folded._plain(state)
    for name in ("cursors", "notices"):
        plain.pop(name)
    plain["peaks"] = sorted((name, sorted(held)) for name, held in plain["peaks"])
    plain["slowest"] = sorted((index, wall, events.tolist()) for index, (wall, events) in state.slowest.items())
    plain["newest"] = sorted((index, events.tolist()) for index, events in state.newest.items())
    plain["calls"] = state.calls.tolist()
    for table in folded._TABLES:
        columns = getattr(state, table).columns()
        plain[table] = {name: column.tolist() for name, column in columns.items() if column.any()}
    return plain


SHAPES = ("plain", "accumulation", "gan", "no loader", "lost pops")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1000),
    steps=st.integers(1, 70),
    shape=st.sampled_from(SHAPES),
    chunks=st.lists(st.integers(1, 12), max_size=8),
)
def test_folding_in_chunks_equals_folding_at_once(seed: int, steps: int, shape: str, chunks: list[int]) -> None:
    tapes = rich_run(seed, steps, shape)
    with tempfile.TemporaryDirectory() as place:
        whole, pieces = Path(place) / "whole", Path(place) / "pieces"
        for tape in tapes:
            tape.write(whole, SEGMENT)
        at_once = told(collect(whole, final=True, block_events=BLOCK))
        written = 0
        for chunk in chunks:
            written += chunk * SEGMENT
            now = tapes[0].events[min(written, len(tapes[0].events)) - 1][1]
            write_until(tapes, pieces, now, written)
            fold(pieces, block_events=BLOCK)
        write_until(tapes, pieces, tapes[0].now + 1, len(tapes[0].events))
        in_chunks = told(fold(pieces, final=True, block_events=BLOCK))
        assert in_chunks == at_once
        # and what was written says the same when it is read again
        assert told(collect(pieces, final=True, block_events=BLOCK)) == at_once


def write_until(tapes: list[Tape], directory: Path, now: int, training_events: int) -> None:
    """Write what existed at that moment: new segments, and old ones that the reader has not consumed."""
    cursors = folded.load(directory / layout.FOLDED).cursors
    for tape in tapes:
        first = cursors.get(tape.stream, (0, 0))[0] * SEGMENT
        if tape.stream == "thread-1":
            stop = training_events
        else:
            late = [number for number, (code, value) in enumerate(tape.events) if code & 0xFF != 4 and value > now]
            stop = late[0] if late else len(tape.events)
        tape.write(directory, SEGMENT, first, stop)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_of_any_size_find_the_same_steps(tmp_path: Path, shape: str) -> None:
    for tape in rich_run(3, 120, shape):
        tape.write(tmp_path)
    whole = collect(tmp_path, final=True)
    small = collect(tmp_path, final=True, block_events=200)
    assert small.steps.columns()["wall_ns"].tolist() == whole.steps.columns()["wall_ns"].tolist()


def test_segments_go_once_they_are_folded_and_only_then(tmp_path: Path) -> None:
    tapes = rich_run(1, 100, "plain")
    for tape in tapes:
        tape.write(tmp_path, SEGMENT)
    before = sorted(path.name for path in tmp_path.glob("thread-*.tape"))
    state = fold(tmp_path, block_events=BLOCK)
    after = sorted(path.name for path in tmp_path.glob("thread-*.tape"))
    seq = state.cursors["thread-1"][0]
    assert after == [name for name in before if int(name[9:15]) >= seq]
    assert len(after) < len(before) / 2


def test_a_fold_killed_between_replacing_and_unlinking_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tapes = rich_run(2, 100, "plain")
    for tape in tapes:
        tape.write(tmp_path, SEGMENT)
    expected = told(collect(tmp_path, final=True, block_events=BLOCK))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folding, "_unlink_consumed", killed)
        with pytest.raises(KeyboardInterrupt):
            fold(tmp_path, block_events=BLOCK)
    assert len(list(tmp_path.glob("thread-*.tape"))) == len(tapes[0].events) // SEGMENT + 1
    assert told(collect(tmp_path, final=True, block_events=BLOCK)) == expected
    fold(tmp_path, block_events=BLOCK)
    assert len(list(tmp_path.glob("thread-*.tape"))) < len(tapes[0].events) // SEGMENT / 2
    assert told(fold(tmp_path, final=True, block_events=BLOCK)) == expected


def test_a_fold_killed_while_writing_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tape in rich_run(2, 60, "plain"):
        tape.write(tmp_path, SEGMENT)
    expected = told(collect(tmp_path, final=True, block_events=BLOCK))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ProfError, match="No space left"):
        fold(tmp_path, block_events=BLOCK)
    assert not list(tmp_path.glob("*.tmp"))
    assert told(collect(tmp_path, final=True, block_events=BLOCK)) == expected


def test_a_damaged_folded_record_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    for tape in rich_run(2, 100, "plain"):
        tape.write(tmp_path, SEGMENT)
    fold(tmp_path, block_events=BLOCK)
    (tmp_path / layout.FOLDED).write_bytes(b"PK not really")
    state = collect(tmp_path, final=True)
    assert any("damaged" in notice for notice in state.notices)
    assert 0 < state.carry.steps < 100
    assert state.lost_segments > 0


def test_a_missing_segment_loses_the_steps_in_it_and_no_others(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(60):
        tape.step()
    paths = tape.write(tmp_path, segment_events=120)  # ten events a step: twelve steps a segment
    paths[2].unlink()
    state = collect(tmp_path, final=True)
    assert state.lost_segments == 1
    assert state.carry.steps == 48
    assert int(state.steps.columns()["wall_ns"].max()) == 1190 * US


def test_thinned_tables_keep_totals_exact_and_the_slowest_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folded, "STEP_ROWS", 500)
    tape = Training()
    for number in range(4000):
        tape.step(forward=50 * MS if number in (1111, 2222) else 300 * US)
    tape.write(tmp_path)
    state = collect(tmp_path, final=True, block_events=4000)
    columns = state.steps.columns()
    assert state.carry.steps == 4000
    assert 250 <= len(columns["index"]) <= 600
    assert int(columns["weight"].sum()) == 4000
    assert state.totals["wall_ns"] == tape.now - START_NS - 20 * US
    assert {1111, 2222} <= set(columns["index"].tolist())
    assert {1111, 2222} <= set(state.slowest)
    assert sorted(state.newest) == list(range(3900, 4000))


def test_the_raw_events_of_a_step_are_those_between_its_cuts(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(10):
        tape.step()
    tape.write(tmp_path)
    state = collect(tmp_path, final=True)
    assert state.newest[4].tolist() == [list(event) for event in tape.events[40:50]]


def test_the_thread_with_the_most_optimizer_steps_is_the_one_that_trains(tmp_path: Path) -> None:
    trains, other = Training(), Tape("thread-2")
    for _ in range(5):
        trains.step()
        other.call(Name.BACKWARD, 10 * US)
        other.call(Name.FORWARD, 10 * US, flags=TRAIN)
    other.write(tmp_path)
    trains.write(tmp_path)
    state = collect(tmp_path, final=True)
    assert state.stream == "thread-1"
    assert state.carry.steps == 5


def test_the_command_line_folds_a_long_run_to_within_its_budget(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(40_000):
        tape.step()
    tape.write(tmp_path)
    assert over_budget(tmp_path, 5 << 20)
    done = subprocess.run(
        [sys.executable, "-m", "profiler.analysis.fold", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not over_budget(tmp_path, 5 << 20)
    assert collect(tmp_path, final=True).carry.steps == 40_000


def test_a_folder_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "profiler.analysis.fold", str(tmp_path / "absent")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == f"prof: {tmp_path / 'absent'} is not the folder of a training process."


def test_the_last_segment_of_an_ended_worker_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    tape = Training()
    for _ in range(3):
        tape.step()
    tape.write(tmp_path)
    for pid in (ended.pid, os.getpid()):
        worker = Tape(f"worker-{pid}")
        worker.call(Name.FETCH, 10 * US, obj=1)
        worker.write(tmp_path)
    fold(tmp_path, final=True)
    assert sorted(layout.tapes(tmp_path)) == ["thread-1", f"worker-{os.getpid()}"]


@pytest.mark.slow
def test_folding_time_grows_with_the_events_and_not_faster(tmp_path: Path) -> None:
    def seconds(steps: int) -> float:
        directory = tmp_path / str(steps)
        tape = Training()
        for _ in range(steps):
            tape.step()
        tape.write(directory)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            collect(directory, final=True)
            best = min(best, time.perf_counter() - start)
        return best

    assert SEGMENT_EVENTS > 10_000
    assert seconds(80_000) / seconds(20_000) < 8
