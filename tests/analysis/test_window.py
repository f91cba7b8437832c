"""The deep window's trace goes the way of other traces; the run's own steps say how much of it was slowdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tape_builder import MS, Training, write_notes, write_run
from trace_builder import TraceBuilder, training, usual_host

from profiler.analysis.build import read_facts
from profiler.analysis.facts import Facts
from profiler.analysis.window import window_note
from profiler.record.layout import window_path
from profiler.report.summary import summary
from profiler.rules.catalogue import judge
from profiler.rules.verdict import Result

GPU = {"kind": "device", "name": "NVIDIA H100", "asynchronous": True, "capacity_bytes": None, "device_times": False}
BUSY_MS = 60.0


def kernels(builder: TraceBuilder, start: float) -> None:
    """Ten kernels of 6 ms each, in a step that lasts 100 ms while it is watched."""
    usual_host(builder, start)
    for number in range(10):
        builder.kernel(start + 3 + 9.5 * number, BUSY_MS / 10, launched=start + 2.9 + 9.5 * number)


def operators(**fields: Any) -> dict[str, Any]:
    row = {"name": "aten::mm", "stage": "forward", "ms_per_step": 5.0, "calls_per_step": 10.0, "device": "cpu"}
    threads = [{"role": "training thread", "ms_per_step": 70.0, "calls_per_step": 300.0}]
    return {
        "kind": "operators",
        "rows": [row],
        "threads": threads,
        "flops": 0,
        "steps": 3,
        "watched_ms": 100.0,
        **fields,
    }


def run_of_steps(folder: Path, step_ms: int, notes: list[dict[str, Any]], trace: bytes | None) -> Facts:
    """A run on a GPU whose unwatched steps last so long."""
    tape = Training()
    for _ in range(60):
        tape.step(forward=(step_ms * MS) - 890_000)
    directory = write_run(folder, [tape], [GPU, *notes])
    if trace is not None:
        window_path(directory, 0).write_bytes(trace)
    return read_facts(folder)


def test_the_device_of_the_window_is_the_runs_and_its_slowdown_is_taken_out(tmp_path: Path) -> None:
    trace = training(kernels).text()
    facts = run_of_steps(tmp_path / "run", 75, [operators(file="window-0.json")], trace)
    device = facts.device
    assert device is not None
    assert device.source == "window"
    assert device.kernel_count == 40
    for step in device.steps:
        assert step.busy_ms == pytest.approx(BUSY_MS, abs=0.01)
        assert step.wall_ms == pytest.approx(75.0, abs=0.5)
        assert sum(step.idle_ms.values()) == pytest.approx(15.0, abs=0.5)
    assert device.steps_busy_share == pytest.approx(0.8, abs=0.01)
    shown = summary(Result(facts, judge(facts)))["device"]
    assert shown["source"] == "window"
    assert shown["kernel_ms"] == pytest.approx(4 * BUSY_MS, abs=0.1)
    assert facts.threads[0]["role"] == "training thread"
    assert facts.operators[0]["share"] == pytest.approx(0.05)


def test_a_step_of_the_window_is_shown_in_full_beside_those_of_the_run(tmp_path: Path) -> None:
    facts = run_of_steps(tmp_path / "run", 75, [operators(file="window-0.json")], training(kernels).text())
    watched = facts.excerpts[-1]
    assert (watched.what, [excerpt.what for excerpt in facts.excerpts[:-1]]) == ("watched", ["typical"])
    assert any(row.name == "stream 7" for row in watched.rows)


def test_steps_that_watching_did_not_slow_stay_as_recorded(tmp_path: Path) -> None:
    facts = run_of_steps(tmp_path / "run", 120, [operators(file="window-0.json")], training(kernels).text())
    assert facts.device is not None
    assert [step.wall_ms for step in facts.device.steps] == pytest.approx([100.0] * len(facts.device.steps), abs=0.02)


@pytest.mark.parametrize(
    ("trace", "why"),
    [
        (None, "can't be used"),
        (b"no trace", "can't be used"),
        (training(usual_host).text(), "another program may hold"),
    ],
    ids=["gone", "damaged", "no device"],
)
def test_a_window_without_its_device_says_why(tmp_path: Path, trace: bytes | None, why: str) -> None:
    facts = run_of_steps(tmp_path / "run", 75, [operators(file="window-0.json")], trace)
    assert facts.device is None
    assert why in facts.not_measured["device window"]
    assert facts.operators


def test_a_window_torn_by_a_kill_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    text = training(kernels, steps=8).text()
    facts = run_of_steps(tmp_path / "run", 75, [operators(file="window-0.json")], text[: int(0.8 * len(text))])
    assert facts.device is not None
    assert 0 < facts.device.kernel_count < 80


def test_on_the_cpu_there_is_no_trace(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [Training()])
    write_notes(directory, [operators(file=None)])
    facts = read_facts(tmp_path / "run")
    assert facts.device is None
    assert "device window" not in facts.not_measured


def test_of_two_windows_the_one_counts_that_is_like_most_of_the_run() -> None:
    early, late = operators(before_ms=10.0), operators(before_ms=15.0)
    assert window_note([early, late], 10.4) is early
    assert window_note([early, late], 14.0) is late
    assert window_note([late], 1.0) is late
    assert window_note([], 1.0) is None


def test_a_run_that_was_looked_at_twice_says_so(tmp_path: Path) -> None:
    looks = [operators(before_ms=30.0, at_step=40), operators(before_ms=75.0, at_step=4000)]
    facts = run_of_steps(tmp_path / "run", 75, looks, None)
    [notice] = [said for said in facts.notices if "once more" in said]
    assert "step 4000" in notice
    assert "second look" in notice
