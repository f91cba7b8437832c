"""The rules of the run around its steps, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

from facts_builder import facts, settings, span, steps

from profiler.rules.base import Bottleneck, Severity
from profiler.rules.catalogue import judge
from profiler.rules.run.spans import CheckpointDominates, EvaluationDominates, StartupDominates
from profiler.rules.run.uneven import UnevenSteps


def run(duration_s: float, **changes):
    return replace(facts().run, duration_s=duration_s, **changes)


def test_a_run_that_mostly_evaluates_says_so():
    judgement = judge(facts(steps=steps(100.0, measured=150), run=run(60.0), spans=(span("evaluation", 40.0, 60.0),)))
    assert judgement.verdict.rule == "run/evaluation-dominates"
    assert judgement.verdict.summary == "The run evaluates for 67 % of its 60 s."
    assert "its training steps 26 %" in judgement.findings[0].why


def test_steps_that_are_most_of_the_run_keep_the_verdict():
    judgement = judge(facts(run=run(60.0), spans=(span("checkpoint", 16.0, 60.0),)))
    assert judgement.verdict.bottleneck is Bottleneck.COMPUTE
    assert "run/checkpoint-dominates" in [finding.rule for finding in judgement.findings]


def test_shares_decide_between_a_note_and_a_warning():
    few = EvaluationDominates().check(facts(run=run(100.0), spans=(span("evaluation", 30.0, 100.0),)))
    assert few.severity is Severity.INFO
    many = CheckpointDominates().check(facts(run=run(100.0), spans=(span("checkpoint", 30.0, 100.0),)))
    assert many.severity is Severity.WARNING


def test_a_short_trial_is_not_blamed_for_its_startup():
    trial = facts(run=run(20.0), spans=(span("startup", 12.0, 20.0, count=1),))
    assert StartupDominates().check(trial) is None
    long = facts(run=run(300.0), spans=(span("startup", 180.0, 300.0, count=1),))
    assert StartupDominates().check(long).severity is Severity.WARNING


def test_spans_that_are_small_are_silent():
    small = facts(
        run=run(300.0), spans=tuple(span(name, 5.0, 300.0) for name in ("evaluation", "checkpoint", "startup"))
    )
    assert [finding.rule for finding in judge(small).findings] == ["compute/healthy"]


def test_too_few_steps_says_how_many_more():
    verdict = judge(facts(steps=steps(100.0, measured=7))).verdict
    assert verdict.bottleneck is Bottleneck.NONE
    assert verdict.rule == "run/too-few-steps"
    assert verdict.severity is Severity.INFO
    assert verdict.summary == ("Too short to judge: 7 steps were measured, 20 are needed, so run at least 13 more.")
    assert judge(facts(steps=steps(100.0, measured=20))).verdict.bottleneck is Bottleneck.COMPUTE


def test_no_training_tells_the_likely_reasons():
    nothing = settings().__class__((), (), (), {}, {})
    never = judge(facts({}, run=run(1.0, torch=None), settings=nothing)).findings[0]
    assert "never imported torch" in never.why
    failed = judge(facts({}, run=run(1.0, exit_code=1), settings=nothing)).findings[0]
    assert "exit code 1" in failed.why
    broken = judge(facts({}, run=run(1.0, torch=None, exit_code=1), settings=nothing)).findings[0]
    assert broken.why == "The script failed with exit code 1 before it imported torch."
    assert broken.fix.code == ""
    killed = judge(facts({}, run=run(1.0, signal="SIGKILL", ended=False), settings=nothing)).findings[0]
    assert "SIGKILL" in killed.why
    inference = judge(facts({}, settings=replace(settings(), optimizers=()))).findings[0]
    assert "evaluation or inference" in inference.why
    noticed = judge(facts({}, notices=("a hook was switched off by an error.",))).findings[0]
    assert "(1) a hook was switched off by an error." in noticed.why


def test_no_training_is_the_verdict_and_nothing_else_is_said():
    judgement = judge(facts({}))
    assert judgement.verdict.summary == "No training step was seen."
    assert (judgement.verdict.bottleneck, judgement.verdict.rule) == (Bottleneck.NONE, "run/no-training")
    assert [finding.rule for finding in judgement.findings] == ["run/no-training"]


def test_steps_whose_mean_few_of_them_make_are_called_uneven_and_the_neighbours_named():
    machine = replace(facts().machine, cores=8, idle_cores=0.5, process_cores=2.0, iowait_cores=0.0)
    finding = UnevenSteps().check(
        facts(steps=replace(steps(100.0, measured=300), mean_ms=210.0, p95_ms=900.0), machine=machine, workers=None)
    )
    assert finding.severity is Severity.INFO
    assert "half take 100 ms or less, yet the mean is 210 ms" in finding.title
    assert "other programs kept 5.5 of 8 cores busy" in finding.why.lower()


def test_even_steps_and_few_steps_are_not_called_uneven():
    assert UnevenSteps().check(facts()) is None
    few = replace(steps(100.0, measured=10), mean_ms=210.0, p95_ms=900.0)
    assert UnevenSteps().check(facts(steps=few)) is None


def test_uneven_steps_without_a_trace_of_why_say_so():
    unseen = replace(facts().machine, idle_cores=None)
    uneven = replace(steps(100.0, measured=300), mean_ms=210.0, p95_ms=900.0, outliers=())
    assert "no cause" in UnevenSteps().check(facts(steps=uneven, machine=unseen)).why
