"""What one step holds over into the next, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import HEALTHY_MS, TRAIN, facts, line, memory, stages

from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.memory.held_over import GradientsKept, LateDel, ReferenceCycles

MIB, GIB = 2**20, 2**30
HELD = {"parameters": 4 * GIB, "gradients": 4 * GIB, "optimizer": 8 * GIB, "activations": 16 * GIB}


def holding(categories=HELD, **changes):
    return facts(memory=memory(categories_bytes=categories, **changes))


def found(rule, its_facts) -> Finding:
    said = rule().check(its_facts)
    assert isinstance(said, Finding), said
    return said


def test_gradients_that_stay_through_forward_cost_the_smaller_of_them_and_the_activations():
    finding = found(GradientsKept, holding(gradients_in_forward_bytes=4 * GIB))
    assert finding.title == "4.0 GiB of the last step's gradients are still there while the next forward runs"
    assert finding.evidence["frees_bytes"] == 4 * GIB
    assert finding.severity is Severity.INFO
    few = found(GradientsKept, holding(HELD | {"activations": 3 * GIB}, gradients_in_forward_bytes=4 * GIB))
    assert few.evidence["frees_bytes"] == 3 * GIB


def test_gradients_are_pointed_at_where_they_are_zeroed():
    its = holding(gradients_in_forward_bytes=4 * GIB)
    its = replace(its, stages=stages(HEALTHY_MS, {"optimizer": (line(44, 0.1, "optimizer.zero_grad()"),)}))
    assert found(GradientsKept, its).fix.line == 44


def test_where_no_sample_fell_on_it_the_first_call_that_was_noted_is_pointed_at():
    its = holding(gradients_in_forward_bytes=4 * GIB)
    optimizer = replace(its.stages["optimizer"], part_calls={"step": Site(TRAIN, 50), "zero_grad": Site(TRAIN, 48)})
    its = replace(its, stages={**its.stages, "optimizer": optimizer})
    assert found(GradientsKept, its).fix.line == 48
    sampled = stages(HEALTHY_MS, {"optimizer": (line(44, 0.1, "optimizer.zero_grad()"),)})["optimizer"]
    sampled = replace(sampled, part_calls=optimizer.part_calls)
    assert found(GradientsKept, replace(its, stages={**its.stages, "optimizer": sampled})).fix.line == 44


@pytest.mark.parametrize("held", [None, 0, 3 * GIB])  # not looked at; dropped in time; less than a tenth
def test_gradients_that_cost_little_are_let_be(held):
    assert GradientsKept().check(holding(gradients_in_forward_bytes=held)) is None


def test_small_trainings_hear_nothing_of_what_they_hold():
    small = {name: size // 1024 for name, size in HELD.items()}
    its = holding(small, gradients_in_forward_bytes=4 * MIB, outputs_held_bytes=8 * MIB, outputs_outlived_bytes=8 * MIB)
    assert [rule().check(its) for rule in (GradientsKept, LateDel, ReferenceCycles)] == [None, None, None]


def test_on_several_ranks_gradients_may_be_views_of_buckets():
    its = holding(gradients_in_forward_bytes=4 * GIB)
    assert isinstance(GradientsKept().check(replace(its, run=replace(its.run, ranks=2))), Abstention)


def test_outputs_that_stay_through_forward_are_to_be_deleted():
    finding = found(LateDel, holding(outputs_held_bytes=2 * GIB, outputs_outlived_bytes=0))
    assert finding.title == "2.0 GiB of the last step's outputs are still there while the next forward runs"
    assert finding.fix.line == 41  # where the model is called
    assert LateDel().check(holding(outputs_held_bytes=GIB, outputs_outlived_bytes=0)) is None
    assert LateDel().check(holding()) is None


def test_outputs_that_outlive_the_next_step_are_in_a_cycle_or_a_buffer():
    its = holding(outputs_held_bytes=2 * GIB, outputs_outlived_bytes=2 * GIB)
    assert found(ReferenceCycles, its).evidence["outlived_share"] == pytest.approx(1 / 16)
    assert LateDel().check(its) is None
    told = [finding.rule for finding in judge(its).findings]
    assert "memory/reference-cycles" in told


def test_what_grows_is_no_cycle():
    its = holding(outputs_held_bytes=2 * GIB, outputs_outlived_bytes=2 * GIB)
    grows = replace(its, memory=replace(its.memory, growth_bytes_per_step=1e6, growth_bytes=GIB))
    assert ReferenceCycles().check(grows) is None


def test_a_cycle_is_not_told_from_growth_that_was_not_measured():
    its = holding(outputs_held_bytes=2 * GIB, outputs_outlived_bytes=2 * GIB)
    said = ReferenceCycles().check(replace(its, not_measured={"memory growth": "the run was too short"}))
    assert isinstance(said, Abstention)


def test_nothing_is_said_where_the_step_was_not_looked_at():
    its = holding({}, gradients_in_forward_bytes=4 * GIB, outputs_held_bytes=2 * GIB, outputs_outlived_bytes=2 * GIB)
    assert [rule().check(its) for rule in (GradientsKept, LateDel, ReferenceCycles)] == [None, None, None]
