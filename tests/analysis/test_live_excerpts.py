"""A typical and a slow step of a live run, as its tapes hold them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tape_builder import MS, PLAIN_STEP_NS, US, Tape, Training, write_run

from profiler.analysis.build import read_facts
from profiler.analysis.excerpt import STAGES, WORKERS
from profiler.record.vocabulary import Name

CPU = {"kind": "device", "name": "cpu", "asynchronous": False, "capacity_bytes": None, "device_times": False}


def run_of(path: Path, steps: int = 60, slow_at: int | None = None, notes=(), extra=None) -> tuple:
    tape = Training()
    tape.wait(500 * MS)
    tape.iterator()
    for index in range(steps):
        tape.step(**({"backward": 40 * MS} if index == slow_at else {}))
        if extra is not None:
            extra(tape)
    tape.mark(Name.ENDED)
    write_run(path / "run", [tape], [CPU, *notes])
    return read_facts(path / "run").excerpts


def test_steady_steps_have_one_whose_stages_fill_it(tmp_path: Path) -> None:
    (excerpt,) = run_of(tmp_path)
    assert excerpt.what == "typical"
    (stages,) = excerpt.rows
    assert stages.kind == STAGES
    assert excerpt.wall_ms == pytest.approx(PLAIN_STEP_NS / MS)
    assert sum(stages.length_us) == pytest.approx(PLAIN_STEP_NS / US)
    told = list(zip(stages.classes, stages.names, stages.length_us, strict=True))
    assert told[:7] == [
        ("data_wait", "next", 200.0),
        ("optimizer", "zero_grad", 10.0),
        ("forward", "module", 300.0),
        ("forward", "loss", 60.0),  # a functional one, which has no hook
        ("backward", "backward", 500.0),
        ("optimizer", "step", 100.0),
        ("other", "other", 20.0),
    ]


def test_the_slowest_step_is_shown_where_it_is_much_slower(tmp_path: Path) -> None:
    typical, slow = run_of(tmp_path, slow_at=30)
    assert (typical.what, slow.what, slow.index) == ("typical", "slow", 30)
    stages = slow.rows[0]
    longest = max(range(len(stages.names)), key=stages.length_us.__getitem__)
    assert stages.classes[longest] == "backward"
    assert stages.length_us[longest] == pytest.approx(40_000)


def test_stages_of_the_users_own_keep_their_names(tmp_path: Path) -> None:
    def metric(tape: Tape) -> None:
        tape.call(Name.USER_STAGE, 200 * US, obj=3)

    (excerpt,) = run_of(tmp_path, notes=[{"kind": "stage_name", "id": 3, "name": "metrics"}], extra=metric)
    assert "metrics" in excerpt.rows[0].classes


def test_a_run_without_steps_has_none(tmp_path: Path) -> None:
    tape = Training()
    tape.wait(500 * MS)
    write_run(tmp_path / "run", [tape], [CPU])
    assert read_facts(tmp_path / "run").excerpts == ()


def test_batches_that_workers_made_meanwhile_have_rows_of_their_own(tmp_path: Path) -> None:
    tape = Training()
    workers = [Tape(f"worker-{pid}", clock=tape) for pid in (71, 72)]
    for number in range(60):
        worker = workers[number % 2]
        worker.push(Name.FETCH, obj=1)
        tape.step()
        worker.pop(Name.FETCH, obj=1)
        worker.value(Name.CPU_NS, 700 * US)
        worker.value(Name.RUN_DELAY_NS, 0)
    tape.mark(Name.ENDED)
    write_run(tmp_path / "run", [tape, *workers], [CPU])
    (excerpt,) = read_facts(tmp_path / "run").excerpts
    made = [row for row in excerpt.rows if row.kind == WORKERS]
    assert made
    assert all(0 <= start <= excerpt.wall_ms * 1e3 for row in made for start in row.start_us)
    assert sum(length for row in made for length in row.length_us) == pytest.approx(excerpt.wall_ms * 1e3, rel=0.01)
