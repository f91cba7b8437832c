"""The rules of zero_grad, schedulers, the scaler, groups and updates, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import facts, gpu, line, optimizer, settings, stages, steps

from profiler.rules.base import Abstention, Bottleneck, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.optimizer.accumulate import Accumulate
from profiler.rules.optimizer.for_loop import ForLoop
from profiler.rules.optimizer.many_groups import ManyGroups
from profiler.rules.optimizer.scaler import Scaler
from profiler.rules.optimizer.scheduler import Scheduler
from profiler.rules.optimizer.zero_grad import ZeroGrad

UPDATES = {"data_wait": 0.1, "forward": 4.0, "backward": 7.7, "optimizer": 8.0, "other": 0.2}  # 20 ms
RULES = (ZeroGrad, Scheduler, Scaler, ManyGroups, Accumulate)
FILLS = line(44, 2.0, "optimizer.zero_grad(set_to_none=False)")
DROPS = line(44, 2.0, "optimizer.zero_grad()")
SCHEDULED = line(47, 3.0, "scheduler.step()")
BFLOAT16 = {"autocast": {"device": "cpu", "dtype": "bfloat16", "enabled": True}}


def found(rule, its_facts) -> Finding:
    said = rule().check(its_facts)
    assert isinstance(said, Finding), said
    return said


def updating(*lines, optimizers=(), values=None, times_ms=UPDATES, **parts_ms):
    """A step of 20 ms whose optimizer stage has these parts."""
    made = replace(settings(optimizers=optimizers or (optimizer(fused=True),)), values=values or {})
    return facts(times_ms, stages=stages(times_ms, {"optimizer": lines}, optimizer=parts_ms), settings=made)


# optimizer/zero-grad


def test_gradients_that_are_filled_with_zeros_are_to_be_dropped():
    finding = found(ZeroGrad, updating(FILLS, step=6.0, zero_grad=2.0))
    assert finding.title == "zero_grad takes 10 % of each 20 ms step, filling 150 gradients with zeros"
    assert (finding.fix.line, finding.bottleneck) == (44, Bottleneck.OPTIMIZER)
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((18.0, 18.8))


def test_gradients_that_are_dropped_already_are_let_be():
    assert ZeroGrad().check(updating(DROPS, step=6.0, zero_grad=2.0)) is None


@pytest.mark.parametrize(("zero_ms", "fires"), [(0.99, False), (1.01, True)])
def test_zero_grad_must_be_a_twentieth_of_the_step(zero_ms, fires):
    assert isinstance(ZeroGrad().check(updating(FILLS, step=6.0, zero_grad=zero_ms)), Finding) is fires
    assert ZeroGrad({"threshold": 0.2}).check(updating(FILLS, step=6.0, zero_grad=2.0)) is None


def test_zero_grad_is_not_judged_by_its_time_alone():
    unseen = ZeroGrad().check(updating(step=6.0, zero_grad=2.0))
    large = ZeroGrad().check(updating(FILLS, optimizers=(optimizer(parameters=750_000),), step=6.0, zero_grad=2.0))
    away = ZeroGrad().check(replace(updating(FILLS, step=6.0, zero_grad=2.0), machine=gpu(device_times=True)))
    assert isinstance(unseen, Abstention)
    assert "was not seen" in unseen.reason
    assert isinstance(large, Abstention)
    assert isinstance(away, Abstention)


# optimizer/scheduler


def test_a_scheduler_that_costs_more_than_a_trifle_is_to_be_stepped_less_often():
    finding = found(Scheduler, updating(SCHEDULED, step=5.0, scheduler=3.0))
    assert finding.title == "Learning-rate schedulers take 15 % of each 20 ms step"
    assert (finding.fix.line, finding.severity) == (47, Severity.WARNING)
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((20 - 2.7, 20 - 2.4))


@pytest.mark.parametrize(("took_ms", "fires"), [(1.1, False), (1.12, True)])
def test_nine_tenths_of_the_scheduler_must_be_a_twentieth_of_the_step(took_ms, fires):
    assert isinstance(Scheduler().check(updating(step=5.0, scheduler=took_ms)), Finding) is fires
    assert Scheduler({"threshold": 0.2}).check(updating(step=5.0, scheduler=3.0)) is None


def test_a_scheduler_of_a_tiny_step_is_a_trifle():
    tiny = {"forward": 0.1, "backward": 0.1, "optimizer": 0.1}
    assert Scheduler().check(updating(times_ms=tiny, step=0.05, scheduler=0.05)) is None  # 0.045 ms would be saved


def test_a_change_of_the_schedule_is_never_called_critical():
    assert found(Scheduler, updating(step=1.0, scheduler=7.0)).severity is Severity.WARNING


def test_a_scheduler_behind_a_device_is_not_judged():
    its_facts = replace(updating(step=5.0, scheduler=3.0), machine=gpu(device_times=True))
    assert isinstance(Scheduler().check(its_facts), Abstention)


# optimizer/scaler


def test_a_scaler_beside_bfloat16_is_to_be_switched_off():
    finding = found(Scaler, updating(line(46, 2.0, "scaler.step(optimizer)"), values=BFLOAT16, step=6.0, scaler=2.0))
    assert finding.title == "A GradScaler that bfloat16 does not need takes 10 % of each 20 ms step"
    assert finding.fix.line == 46
    assert "enabled=False" in finding.fix.code
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((18.0, 19.1))


@pytest.mark.parametrize(
    "autocast", [{"dtype": "float16", "enabled": True}, {"dtype": "bfloat16", "enabled": False}], ids=str
)
def test_a_scaler_that_may_be_needed_is_let_be(autocast):
    assert Scaler().check(updating(values={"autocast": autocast}, step=6.0, scaler=2.0)) is None


def test_parameters_of_float16_need_the_scaler():
    its_facts = updating(values=BFLOAT16, step=6.0, scaler=2.0)
    half = tuple(replace(root, dtypes=("float16",)) for root in its_facts.settings.roots)
    assert Scaler().check(replace(its_facts, settings=replace(its_facts.settings, roots=half))) is None


def test_a_scaler_that_costs_little_is_let_be():
    assert Scaler().check(updating(values=BFLOAT16, step=6.0, scaler=0.99)) is None
    assert isinstance(Scaler().check(updating(values=BFLOAT16, step=6.0, scaler=1.01)), Finding)
    assert Scaler({"threshold": 0.2}).check(updating(values=BFLOAT16, step=6.0, scaler=2.0)) is None


def test_a_scaler_is_not_judged_without_its_number_format_or_behind_a_device():
    assert isinstance(Scaler().check(updating(step=6.0, scaler=2.0)), Abstention)
    away = replace(updating(values=BFLOAT16, step=6.0, scaler=2.0), machine=gpu(device_times=True))
    assert isinstance(Scaler().check(away), Abstention)


# optimizer/many-groups


def grouped(groups=150, step=7.5, **changes):
    return updating(optimizers=(optimizer(**{"fused": True, "groups": groups, **changes}),), step=step)


def test_a_group_for_each_tensor_is_to_be_one_group():
    finding = found(ManyGroups, grouped())
    assert finding.title == (
        "AdamW.step() takes 38 % of each 20 ms step, calling its fused update for 150 groups one by one"
    )
    assert finding.fix.line == 25
    assert finding.fix.code.startswith("AdamW(model.parameters(), fused=True)")
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((20 - 6.75, 20 - 4.125))


def test_groups_of_many_tensors_and_few_groups_are_let_be():
    assert ManyGroups().check(grouped(groups=99)) is None  # 1.52 tensors a group
    assert isinstance(ManyGroups().check(grouped(groups=100)), Finding)
    assert ManyGroups().check(grouped(groups=19, tensors=19, parameters=19_000)) is None
    assert isinstance(ManyGroups().check(grouped(groups=20, tensors=20, parameters=20_000)), Finding)
    assert ManyGroups().check(grouped(groups=1)) is None


def test_groups_do_not_matter_to_a_for_loop_or_a_short_update():
    assert ManyGroups().check(grouped(fused=None)) is None
    assert ManyGroups().check(grouped(step=1.8)) is None  # 55 % of it are no twentieth of the step
    assert isinstance(ManyGroups().check(grouped(step=1.83)), Finding)
    assert ManyGroups({"threshold": 0.39}).check(grouped()) is None


def test_groups_are_not_judged_without_a_measured_gain():
    two = updating(optimizers=(optimizer(fused=True, groups=150), optimizer(id=2, fused=True)), step=7.5)
    untimed = updating(optimizers=(optimizer(fused=True, groups=150),))
    away = replace(grouped(), machine=gpu(device_times=True))
    for its_facts in (two, untimed, away, grouped(parameters=750_000)):
        assert isinstance(ManyGroups().check(its_facts), Abstention)


# optimizer/accumulate

DOMINATED = {"forward": 2.0, "backward": 5.0, "optimizer": 13.0}


def dominated(step=12.0, micro_batches=1.0, **changes):
    its = updating(times_ms=DOMINATED, optimizers=(optimizer(**{"fused": True, **changes}),), step=step)
    return replace(its, steps=steps(20.0, micro_batches=micro_batches))


def test_fast_updates_that_dominate_the_step_are_noted():
    finding = found(Accumulate, dominated())
    assert finding.title == "Updating 150,000 parameters takes 60 % of each 20 ms step"
    assert "each would take 6.0 ms less" in finding.why
    assert (finding.severity, finding.gain, finding.fix.line) == (Severity.INFO, None, 40)


def test_updates_after_several_batches_or_by_a_for_loop_are_no_matter_of_accumulation():
    assert Accumulate().check(dominated(micro_batches=2.0)) is None
    assert Accumulate().check(dominated(fused=None)) is None


def test_updates_of_less_than_half_the_step_are_let_be():
    assert Accumulate().check(dominated(step=9.9)) is None
    assert isinstance(Accumulate().check(dominated(step=10.1)), Finding)
    assert Accumulate({"threshold": 0.64}).check(dominated()) is None


def test_updates_that_were_not_observed_are_not_judged():
    unseen = replace(dominated(), settings=replace(settings(), optimizers=()))
    assert isinstance(Accumulate().check(unseen), Abstention)
    assert isinstance(Accumulate().check(updating(times_ms=DOMINATED)), Abstention)


def test_groups_explain_an_update_that_dominates():
    judgement = judge(dominated(groups=150))
    assert ("optimizer/accumulate", "optimizer/many-groups") in [(f.rule, by) for f, by in judgement.folded]
    assert [finding.rule for finding in judgement.findings] == ["optimizer/many-groups"]


# all


@pytest.mark.parametrize("rule", RULES)
def test_healthy_trainings_are_silent(rule):
    healthy = stages({"forward": 28.0, "backward": 60.0, "optimizer": 9.0}, optimizer={"step": 8.7, "zero_grad": 0.3})
    for its_facts in (facts(), facts(stages=healthy), facts({"forward": 30.0})):
        assert rule().check(its_facts) is None


def test_the_for_loop_is_not_blamed_where_each_group_holds_one_tensor():
    times = {"forward": 6.0, "backward": 12.0, "optimizer": 8.0}
    slow = {"stages": stages(times, optimizer={"step": 8.0})}
    split = facts(times, settings=settings(optimizers=(optimizer(groups=150),)), **slow)
    whole = facts(times, settings=settings(optimizers=(optimizer(groups=2),)), **slow)
    assert isinstance(ForLoop().check(split), Abstention)
    assert isinstance(ForLoop().check(whole), Finding)
