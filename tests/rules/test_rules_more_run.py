"""The rules of compiling, drift, goodput and garbage collection, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import facts, gpu, line, memory, settings, span, stages, steps

from profiler.analysis.facts import Timeline
from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Bottleneck, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.host.garbage_collection import GarbageCollection
from profiler.rules.run.drift import Drift
from profiler.rules.run.goodput import Goodput, own_seconds
from profiler.rules.run.spans import CompileDominates


def run(duration_s: float, **changes):
    return replace(facts().run, duration_s=duration_s, **changes)


# run/compile-dominates


def compiling(total_s: float, of_s: float = 100.0, **given):
    made = settings()
    known = replace(made, values={"compile": given}, sites={"compile": Site("/home/ada/vision/train.py", 22)})
    return facts(
        run=run(of_s),
        spans=(span("compile", total_s, of_s, count=8),),
        settings=known,
        steps=steps(100.0, measured=200),
    )


def test_a_run_that_mostly_compiles_says_so():
    finding = CompileDominates().check(compiling(60.0))
    assert finding.severity is Severity.WARNING
    assert finding.title == "the run compiles for 60 % of its 100 s"
    assert finding.why.startswith(
        "Compile took 60 s of the run, and its training steps 20 %: 8 times at train.py:70, 9.0 s at the longest."
    )
    assert finding.fix.line == 22
    assert "mark_dynamic" in finding.fix.code
    assert judge(compiling(60.0)).verdict.rule == "run/compile-dominates"


def test_a_mode_that_tunes_is_named():
    finding = CompileDominates().check(compiling(30.0, mode="max-autotune-no-cudagraphs"))
    assert "instead of max-autotune-no-cudagraphs" in finding.fix.summary


@pytest.mark.parametrize(("total_s", "severity"), [(24.9, None), (25.0, "info"), (49.9, "info"), (50.0, "warning")])
def test_compiling_is_judged_at_its_thresholds(total_s, severity):
    finding = CompileDominates().check(compiling(total_s))
    assert (finding.severity.value if finding else None) == severity


def test_a_short_trial_and_a_run_that_compiled_nothing_are_let_be():
    assert CompileDominates().check(compiling(50.0, of_s=59.0)) is None
    assert CompileDominates().check(facts()) is None


# run/drift


def drifting(share: float | None, measured: int = 500, **changes):
    return facts(steps=steps(100.0, measured=measured, drift_share=share), **changes)


def test_steps_that_got_slower_are_told_without_a_cause_where_none_is_recorded():
    finding = Drift().check(drifting(0.42))
    assert finding.severity is Severity.INFO
    assert finding.title == "steps got slower by 42 % from the first third of the run to the last"
    assert "over 50 s of measured steps" in finding.why
    assert "no cause" in finding.why
    assert judge(drifting(0.42)).verdict.bottleneck is Bottleneck.COMPUTE


def test_memory_that_grew_beside_is_named_in_a_note():
    held = memory(2.0 * 2**20, 1000 * 2**20)
    finding = Drift().check(drifting(0.5, memory=held))
    assert finding.severity is Severity.INFO
    assert "memory that grew by 2.0 MiB a step" in finding.why
    assert "deque" in finding.fix.code


def test_heat_and_collections_are_named_where_they_were_read():
    hot = replace(gpu(True), gpu={"throttle_reasons": float(0x20 | 0x1)})
    assert "slowed down for heat or power" in Drift().check(drifting(0.3, machine=hot)).why
    capped = replace(gpu(True), gpu={"throttle_reasons": float(0x4 | 0x1)})
    assert "heat" not in Drift().check(drifting(0.3, machine=capped)).why
    assert "5.0 ms of garbage collection" in Drift().check(drifting(0.3, gc_ms_per_step=5.0)).why
    assert "garbage" not in Drift().check(drifting(0.3, gc_ms_per_step=4.9)).why


def test_the_stage_that_grew_is_named():
    rows = 9
    timeline = Timeline(
        5,
        tuple(float(i) for i in range(rows)),
        (100.0,) * rows,
        (100.0,) * rows,
        {"forward": (900.0, *(30.0,) * 8), "other": (100.0, 2.0, 2.0, 9.0, 9.0, 9.0, 42.0, 42.0, 42.0)},
    )
    finding = Drift().check(drifting(0.42, timeline=timeline))
    assert "Most of it is in other, which grew by 40 ms." in finding.why
    assert finding.evidence["other_grew_ms"] == 40.0


def test_steady_faster_and_short_runs_are_silent():
    assert Drift().check(facts()) is None
    assert Drift().check(drifting(-0.4)) is None
    assert Drift().check(drifting(0.149)) is None
    assert Drift().check(drifting(0.15)) is not None
    assert Drift().check(drifting(0.42, measured=299)) is None
    assert Drift().check(drifting(0.42, measured=300)) is not None


# run/goodput


def losing(evaluation_s: float = 20.0, checkpoint_s: float = 9.0, startup_s: float = 15.0, of_s: float = 100.0):
    spans = (
        span("evaluation", evaluation_s, of_s),
        span("startup", startup_s, of_s, count=1),
        span("checkpoint", checkpoint_s, of_s),
        span("instrument", 30.0, of_s),
    )
    return facts(run=run(of_s), steps=steps(100.0, measured=395), spans=spans)


def test_a_run_that_loses_its_time_in_parts_says_where():
    finding = Goodput().check(losing())
    assert finding.severity is Severity.INFO
    assert finding.title == "training steps take 40 % of the run's 100 s"
    assert "20 s on evaluation, 15 s on startup and 9.0 s on checkpoint: 44 % of it together" in finding.why
    assert "instrument" not in finding.why
    assert finding.fix.summary == "Make evaluation shorter or rarer first."
    judgement = judge(losing())
    assert judgement.verdict.bottleneck is Bottleneck.COMPUTE
    assert "run/goodput" in [finding.rule for finding in judgement.findings]


def test_a_span_that_dominates_alone_speaks_for_itself():
    judgement = judge(losing(evaluation_s=30.0))
    assert "run/evaluation-dominates" in [finding.rule for finding in judgement.findings]
    assert ("run/goodput", "run/evaluation-dominates") in [(f.rule, cause) for f, cause in judgement.folded]


def test_what_startup_counts_is_not_counted_twice():
    whole = losing(evaluation_s=8.0, checkpoint_s=8.0, startup_s=15.0)
    assert Goodput().check(whole) is not None
    places = {"startup": ((0.0, 15.0),), "checkpoint": ((2.0, 10.0),)}
    within = tuple(replace(it, intervals_s=places.get(it.name, ())) for it in whole.spans)
    assert Goodput().check(replace(whole, spans=within)) is None  # 8 + 15 of 100 s


def test_spans_within_one_another_are_counted_once():
    spans = (
        replace(span("evaluation", 20.0, 100.0), intervals_s=((10.0, 20.0), (30.0, 40.0))),
        replace(span("checkpoint", 6.0, 100.0), intervals_s=((15.0, 19.0), (39.0, 41.0))),
        replace(span("startup", 12.0, 100.0), intervals_s=((0.0, 12.0),)),
    )
    assert own_seconds(spans) == {"evaluation": 18.0, "startup": 12.0, "checkpoint": 1.0}


def test_intervals_that_were_kept_stand_for_the_others():
    spans = (
        replace(span("evaluation", 20.0, 100.0), intervals_s=((10.0, 20.0),)),
        replace(span("checkpoint", 8.0, 100.0), intervals_s=((18.0, 20.0), (30.0, 32.0))),
    )
    assert own_seconds(spans) == {"evaluation": 20.0, "checkpoint": 4.0}


def test_a_run_that_trains_and_a_short_one_are_silent():
    assert Goodput().check(replace(losing(), steps=steps(100.0, measured=495))) is None
    assert Goodput().check(replace(losing(), steps=steps(100.0, measured=494))) is not None
    assert Goodput().check(losing(of_s=100.0, evaluation_s=5.0)) is None  # 29 % around
    short = replace(losing(), run=run(59.0), steps=steps(100.0, measured=100))
    assert Goodput().check(short) is None
    assert Goodput().check(facts()) is None


# host/garbage-collection


def collecting(gc_ms: float | None, enabled: bool = True, gc_steps: int = 50, **changes):
    known = replace(settings(), values={"gc": {"enabled": enabled, "threshold": [700, 10, 10], "frozen": 0}})
    return facts(gc_ms_per_step=gc_ms, gc_pauses=2500, gc_steps=gc_steps, settings=known, **changes)


def test_a_few_long_pauses_are_not_called_a_cost_of_each_step():
    assert isinstance(GarbageCollection().check(collecting(20.0, gc_steps=4)), Abstention)
    assert isinstance(GarbageCollection().check(collecting(20.0, gc_steps=5)), Finding)


def test_collections_that_fill_the_step_are_told_with_a_range():
    finding = GarbageCollection().check(collecting(20.0))
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.WARNING
    assert finding.title == "garbage collection takes 20 % of each 100 ms step"
    assert "2,500 collections in a run of 505 steps" in finding.why
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((80.2, 82.0))
    assert finding.recoverable_ms == pytest.approx(18.9)
    assert "gc.freeze()" in finding.fix.code


def test_a_line_that_collects_is_named_by_the_rule_of_lines_alone():
    times = {"forward": 30.0, "backward": 50.0, "other": 20.0}
    named = stages(times, {"other": (line(52, 19.0, "gc.collect()"),)})
    little = stages(times, {"other": (line(52, 2.0, "gc.collect()"),)})
    thin = stages(times, {"other": (line(52, 19.0, "gc.collect()", samples=7),)})
    assert GarbageCollection().check(replace(collecting(20.0), stages=named)) is None
    assert isinstance(GarbageCollection().check(replace(collecting(20.0), stages=little)), Finding)
    assert isinstance(GarbageCollection().check(replace(collecting(20.0), stages=thin)), Finding)


def test_collections_by_hand_are_made_rarer():
    finding = GarbageCollection().check(collecting(20.0, enabled=False))
    assert "calls of gc.collect()" in finding.why
    assert "freeze" not in finding.fix.code


def test_frozen_objects_cost_nothing_and_the_threshold_decides():
    assert GarbageCollection().check(collecting(0.4)) is None
    assert GarbageCollection().check(collecting(4.99)) is None
    assert GarbageCollection().check(collecting(5.3)) is not None
    assert GarbageCollection({"threshold": 0.2}).check(collecting(20.0)) is not None
    assert GarbageCollection({"threshold": 0.21}).check(collecting(20.0)) is None


def test_collections_within_the_noise_are_let_be():
    noisy = steps(100.0, noise_ms=9.0)
    assert GarbageCollection().check(collecting(9.0, steps=noisy)) is None
    assert GarbageCollection().check(collecting(10.0, steps=noisy)) is not None


def test_collections_that_nobody_timed_are_not_judged():
    assert isinstance(GarbageCollection().check(collecting(None)), Abstention)
