"""The rules of pipelines, on facts made by hand: four ranks, 100 ms a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from facts_builder import TRAIN, facts, settings
from test_rules_ranks import STEP, job

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import RankRow
from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Finding
from profiler.rules.comm.pipeline_bubble import PipelineBubble
from profiler.rules.straggler.uneven_stages import UnevenStages


def piped(works_ms: tuple[float, ...], micro_batches: int, stages_of_rank: int = 1, **changes: Any) -> Facts:
    """Ranks that work so long in a step of 100 ms, under a schedule made at train.py:30."""
    rows = tuple(
        RankRow(rank, "one", "ok", 500, 100.0, {"backward": work, "communication": 100.0 - work}, None)
        for rank, work in enumerate(works_ms)
    )
    schedule = {
        "schedule": "Schedule1F1B",
        "micro_batches": micro_batches,
        "stages": len(works_ms) * stages_of_rank,
        "stages_of_rank": stages_of_rank,
    }
    made = replace(settings(), values={"pipeline": schedule}, sites={"pipeline": Site(TRAIN, 30)})
    its_job = job(reduction=None, network_ms=None, waiting_ms=None, turns_ms=None, rows=rows, **changes)
    return replace(facts(STEP, settings=made), ranks=its_job)


def test_few_micro_batches_are_named_with_what_the_schedule_makes_ranks_stand_still() -> None:
    found = PipelineBubble().check(piped((57.0, 56.0, 57.0, 57.0), 4))  # 3 of 7 parts of the step
    assert isinstance(found, Finding)
    assert found.evidence["idle_ms"] == pytest.approx(57.0 * 3 / 4)
    assert (found.fix.file, found.fix.line) == (TRAIN, 30) and "into 8 micro" in found.fix.summary
    assert found.gain is not None and found.gain.step_ms_low == pytest.approx(100 - 0.5 * 57.0 * 3 / 4)
    assert PipelineBubble().check(piped((84.0,) * 4, 32)) is None


def test_a_bubble_is_no_longer_than_what_the_busiest_rank_was_seen_to_wait() -> None:
    found = PipelineBubble().check(piped((80.0, 80.0), 2))
    assert isinstance(found, Finding) and found.evidence["idle_ms"] == pytest.approx(20.0)


def test_interleaved_stages_shrink_the_bubble() -> None:
    found = PipelineBubble().check(piped((70.0,) * 4, 4, stages_of_rank=2))
    assert isinstance(found, Finding)
    assert found.evidence["idle_ms"] == pytest.approx(70.0 * 3 / 8)


def test_the_rank_whose_stage_works_longest_is_named() -> None:
    found = UnevenStages().check(piped((40.0, 80.0, 40.0, 40.0), 32))
    assert isinstance(found, Finding) and "rank 1" in found.title
    assert found.gain is not None and found.gain.step_ms_low == pytest.approx(100 - 30.0)
    assert UnevenStages().check(piped((60.0, 64.0, 60.0, 60.0), 32)) is None


@pytest.mark.parametrize("rule", [PipelineBubble(), UnevenStages()])
def test_nothing_is_said_of_a_pipeline_that_was_not_seen_whole(rule: PipelineBubble | UnevenStages) -> None:
    seen = piped((30.0, 60.0), 2)
    assert isinstance(rule.check(seen), Finding)
    assert isinstance(rule.check(piped((30.0, 60.0), 2, missing=(2,))), Abstention)
    unmeasured = piped((30.0, 60.0), 2, exposed_ms=None)
    assert isinstance(rule.check(unmeasured), Abstention)
    assert rule.check(replace(seen, settings=settings())) is None
    assert rule.check(replace(seen, ranks=None)) is None
