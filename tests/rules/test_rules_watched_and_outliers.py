"""Rules of tools left on, of outliers and of checkpoints that hold the loop, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

from facts_builder import TRAIN, facts, memory, settings, span, steps

from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.host.anomaly_detection import AnomalyDetection
from profiler.rules.host.profiler_left_on import ProfilerLeftOn
from profiler.rules.memory.growth import Growth
from profiler.rules.run.outlier_steps import OutlierSteps
from profiler.rules.run.spans import CheckpointDominates, SynchronousCheckpoint

# host/profiler-left-on, host/anomaly-detection


def watched(*names: str, **values):
    return facts(settings=replace(settings(), values={"instruments": list(names), **values}))


def test_a_profiler_that_watches_every_step_is_named():
    finding = ProfilerLeftOn().check(watched("cProfile", "torch.profiler"))
    assert isinstance(finding, Finding)
    assert finding.title == "cProfile and torch.profiler watched the training from its first steps on"
    assert "torch.profiler.schedule" in finding.fix.code
    assert finding.severity is Severity.WARNING
    unknown = ProfilerLeftOn().check(watched("sometool"))
    assert "sometool, which watches Python run" in unknown.why


def test_what_a_profiler_keeps_is_not_called_a_leak_of_the_training():
    grows = memory(1 << 20, 200 << 20)
    assert isinstance(Growth().check(facts(memory=grows)), Finding)
    assert isinstance(Growth().check(replace(watched("torch.profiler"), memory=grows)), Abstention)
    assert isinstance(Growth().check(replace(watched("cProfile"), memory=grows)), Finding)


def test_nothing_that_watches_is_silent():
    assert ProfilerLeftOn().check(watched()) is None
    assert ProfilerLeftOn().check(facts()) is None
    assert ProfilerLeftOn().check(watched("anomaly detection")) is None  # it has a rule of its own


def test_anomaly_detection_that_stays_on_is_a_warning():
    made = replace(
        settings(),
        values={"anomaly_mode": True, "instruments": ["anomaly detection"]},
        sites={"anomaly_mode": Site(TRAIN, 12)},
    )
    finding = AnomalyDetection().check(facts(settings=made))
    assert finding.severity is Severity.WARNING
    assert "on at the 5th step and still at the 25th" in finding.why


# run/outlier-steps


def now_and_then(share=0.02, **outlier_ms: float):
    named = {cause.replace("_", " "): took for cause, took in outlier_ms.items()}
    if "unknown" in named:
        named[""] = named.pop("unknown")
    return facts(steps=steps(100.0, outlier_share=share, outlier_ms=named))


def test_outliers_with_a_cause_are_told_with_what_they_take():
    finding = OutlierSteps().check(now_and_then(after_an_evaluation=9.0, unknown=3.0))
    assert isinstance(finding, Finding)
    assert finding.title == (
        "2.0 % of the steps take 12 % of the time beyond what a usual step takes, 100 ms: after an evaluation is "
        "beside most of it"
    )
    assert "after an evaluation 75 % of that time" in finding.why
    assert finding.severity is Severity.WARNING
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == (88.0, 94.0)


def test_outliers_without_a_cause_are_a_note_without_a_promise():
    finding = OutlierSteps().check(now_and_then(after_an_evaluation=2.0, unknown=9.0))
    assert (finding.severity, finding.gain) == (Severity.INFO, None)
    assert OutlierSteps().check(now_and_then(unknown=9.0)).why == "The record shows no cause."


def test_many_outliers_and_cheap_ones_are_no_outliers():
    assert OutlierSteps().check(now_and_then(share=0.06, unknown=9.0)) is None
    assert OutlierSteps().check(now_and_then(unknown=4.0)) is None
    assert OutlierSteps().check(facts()) is None


# run/synchronous-checkpoint


def saving(each_s: float, count: int = 20, of_s: float = 100.0):
    its = facts(spans=(replace(span("checkpoint", each_s * count, of_s, count), intervals_s=()),))
    return replace(its, run=replace(its.run, duration_s=of_s))


def test_a_loop_that_stands_still_for_its_checkpoints_is_told():
    finding = SynchronousCheckpoint().check(saving(1.2, 4))
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.INFO
    assert "async_save" in finding.fix.code
    assert SynchronousCheckpoint().check(saving(1.2, 9)).severity is Severity.WARNING


def test_short_saves_few_of_them_and_short_runs_are_silent():
    assert SynchronousCheckpoint().check(saving(0.9)) is None  # not yet ten steps of 100 ms
    assert SynchronousCheckpoint().check(saving(1.2, 2)) is None
    assert SynchronousCheckpoint().check(saving(1.2, 4, of_s=19.0)) is None
    assert SynchronousCheckpoint().check(facts()) is None


def test_saving_too_often_comes_before_saving_beside_the_loop():
    judgement = judge(saving(1.5, 20))
    assert CheckpointDominates.id in [finding.rule for finding in judgement.findings]
    assert SynchronousCheckpoint.id in [finding.rule for finding, _ in judgement.folded]
