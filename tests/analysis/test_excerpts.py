"""A typical and a slow step are taken from a trace whole, clipped to the step, and in the trace's own words."""

from __future__ import annotations

import json

import pytest
from trace_builder import COPIES, STREAM, training, usual_host

from profiler.analysis.excerpt import DEVICE, OPERATORS, STAGES
from profiler.analysis.trace import excerpts
from profiler.analysis.trace.facts import facts_of
from profiler.record.trace.read import read_trace


def step(builder, start):
    usual_host(builder, start)
    builder.copy(start + 0.5, 1.0, start + 0.3, 0.05, stream=COPIES)
    for number in range(20):
        builder.kernel(start + 5 + 4 * number, 3.0, start + 4 + 4 * number)
    builder.kernel(start + 95, 10.0, start + 94, name="late_kernel")  # ends in the next step


@pytest.fixture
def taken(tmp_path):
    def take(builder):
        return facts_of(read_trace(builder.write(tmp_path / "it.json"))).facts

    return take


def row(excerpt, name):
    return next(row for row in excerpt.rows if row.name == name)


def test_equal_steps_have_one_typical_excerpt(taken):
    facts = taken(training(step, steps=8))
    (excerpt,) = facts.excerpts
    assert excerpt.what == "typical"
    assert excerpt.wall_ms == pytest.approx(99.99)


def test_a_step_much_slower_than_the_median_is_shown_too(taken):
    builder = training(step, steps=8)
    for event in builder.events:
        if event["name"] == "ProfilerStep#9":
            event["dur"] *= 1.5
        elif event["ts"] >= 1_700_000_000_000_000 + 500_000:
            event["ts"] += 50_000
    typical, slow = taken(builder).excerpts
    assert (typical.what, slow.what) == ("typical", "slow")
    assert slow.wall_ms == pytest.approx(1.5 * typical.wall_ms, rel=0.01)


def test_stages_fill_the_step(taken):
    excerpt = taken(training(step, steps=8)).excerpts[0]
    stages = row(excerpt, "stages")
    assert stages.kind == STAGES
    assert sum(stages.length_us) / 1e3 == pytest.approx(excerpt.wall_ms, rel=1e-3)
    assert set(stages.classes) >= {"data_wait", "forward", "backward", "optimizer"}
    ends = [start + length for start, length in zip(stages.start_us, stages.length_us, strict=True)]
    assert all(end <= start + 0.01 for end, start in zip(ends, stages.start_us[1:], strict=False))


def test_streams_hold_what_ran_within_the_step_clipped_to_it(taken):
    facts = taken(training(step, steps=8))
    excerpt = facts.excerpts[0]
    stream = row(excerpt, f"stream {STREAM}")
    assert stream.kind == DEVICE
    assert stream.classes.count("gemm") == 20
    late = [length for name, length in zip(stream.names, stream.length_us, strict=True) if name == "late_kernel"]
    whole = sum(late)
    assert whole == pytest.approx(5_000 if excerpt.index == 0 else 10_000, abs=30)
    assert all(0 <= start <= excerpt.wall_ms * 1e3 for start in stream.start_us)
    assert row(excerpt, f"stream {COPIES}").classes == ("h2d_pageable",)


def test_only_outermost_operators_are_kept_and_autograds_thread_is_named(taken):
    def nested(builder, start):
        step(builder, start)
        builder.op("aten::outer", start + 2, 1.0)
        builder.op("aten::inner", start + 2.2, 0.5)

    excerpt = taken(training(nested, steps=8)).excerpts[0]
    assert "aten::inner" not in row(excerpt, "operators").names
    assert row(excerpt, "autograd").kind == OPERATORS


def test_too_many_spans_are_cut_to_the_longest_and_counted(taken, monkeypatch):
    monkeypatch.setattr(excerpts, "MOST_SPANS", 15)
    excerpt = taken(training(step, steps=8)).excerpts[0]
    assert excerpt.left_out > 0
    assert min(row(excerpt, f"stream {STREAM}").length_us) >= 2_000
    assert row(excerpt, "stages").names  # stages stay whole


def test_a_trace_without_steps_has_none(taken):
    assert taken(training(lambda b, at: b.op("aten::mm", at, 1.0), steps=3, marked=False)).excerpts == ()


def test_what_is_exported_is_a_chrome_trace_that_is_read_again_as_the_same(taken, tmp_path):
    from profiler.report.export.chrome import export_steps

    facts = taken(training(step, steps=8))
    export_steps(facts, tmp_path / "steps.json", "it")
    value = json.loads((tmp_path / "steps.json").read_text())
    events = value["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in events if event["ph"] == "X")
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"host", "device 0"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    kernels = [e for e in events if threads.get((e["pid"], e["tid"])) == f"stream {STREAM}" and e["ph"] == "X"]
    assert len(kernels) == len(row(facts.excerpts[0], f"stream {STREAM}").names)
    again = read_trace(tmp_path / "steps.json")
    assert len(again.device) == sum(len(it.names) for it in facts.excerpts[0].rows if it.kind == DEVICE)
    spans = [(e["pid"], e["tid"], e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X"]
    for pid, tid in threads:  # slices of one thread nest or follow one another, as the format demands
        own = sorted((start, -end) for p, t, start, end in spans if (p, t) == (pid, tid))
        open_ends = []
        for start, negative_end in own:
            while open_ends and open_ends[-1] <= start + 0.002:
                open_ends.pop()
            assert not open_ends or -negative_end <= open_ends[-1] + 0.002
            open_ends.append(-negative_end)
