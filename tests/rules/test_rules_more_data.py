"""Data rules about workers that start, hand over, are uneven or too many, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import cpu, facts, gpu, line, loader, settings, stages, steps, workers

from profiler.rules.base import Abstention, Bottleneck, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.data.handing_over import HandingOver
from profiler.rules.data.too_many_workers import TooManyWorkers
from profiler.rules.data.uneven_batches import UnevenBatches
from profiler.rules.data.workers_restarted import WorkersRestarted

WAITS = {"data_wait": 40.0, "forward": 20.0, "backward": 36.0, "optimizer": 3.0, "other": 1.0}
CURED = {"data_wait": 1.0, "forward": 20.0, "backward": 36.0, "optimizer": 3.0, "other": 1.0}
RULES = (WorkersRestarted, HandingOver, UnevenBatches, TooManyWorkers)


def found(rule, its_facts) -> Finding:
    said = rule().check(its_facts)
    assert isinstance(said, Finding), said
    return said


def loading(iter_ms=0.0, its_workers=None, its_loader=None, times_ms=WAITS, **changes):
    """A step of 100 ms that waits 40 ms, of which so much makes the iterator."""
    return facts(
        times_ms,
        stages=stages(times_ms, data_wait={"iter": iter_ms, "next": times_ms["data_wait"] - iter_ms}),
        workers=workers(2, 0, 4, 1) if its_workers is None else its_workers,
        settings=settings((its_loader or loader(2, prefetch_factor=2),)),
        **changes,
    )


# data/workers-restarted


def restarting(iter_ms=36.0, its_loader=None, its_workers=None, **changes):
    its_loader = its_loader or loader(2, prefetch_factor=2, length=640)
    return loading(iter_ms, its_workers or workers(2, 0, 60, 0), its_loader, **changes)


def test_workers_that_start_in_every_epoch_are_told_to_stay():
    finding = found(WorkersRestarted, restarting())
    assert finding.title == "36 % of each 100 ms step goes into starting 2 workers again in every epoch"
    assert "An epoch has about 20 steps" in finding.why
    assert "persistent_workers=True" in finding.fix.code
    assert "num_workers=0" not in finding.fix.code  # a batch takes 60 ms, longer than the start
    assert (finding.fix.line, finding.severity, finding.bottleneck) == (31, Severity.CRITICAL, Bottleneck.DATA_LOADING)
    assert finding.gain.step_ms_high == pytest.approx(100 - 0.8 * 36)
    assert finding.gain.step_ms_low == pytest.approx(100 - 36 - 0.9 * 4)  # 60 ms / 2 workers keep up
    first = restarting(steps=steps(100.0, epoch_start_ms=40.0, epoch_starts=9))
    assert found(WorkersRestarted, first).gain.step_ms_high == pytest.approx(100 - 0.8 * 36 - 0.5 * 40 / 20)


def test_cheap_batches_may_do_without_workers():
    assert "num_workers=0" in found(WorkersRestarted, restarting(its_workers=workers(2, 0, 4, 0))).fix.code


def test_workers_that_persist_or_do_not_exist_are_let_be():
    assert WorkersRestarted().check(restarting(its_loader=loader(2, persistent_workers=True))) is None
    assert WorkersRestarted().check(restarting(its_loader=loader(0))) is None


def test_the_first_start_is_not_held_against_a_single_epoch():
    one = loader(2, length=16_159)  # 505 batches of 32, as many as there were steps
    assert WorkersRestarted().check(restarting(its_loader=one)) is None
    two = loader(2, length=16_128)
    assert isinstance(WorkersRestarted().check(restarting(its_loader=two)), Finding)


def test_an_epoch_that_ranks_share_is_shorter():
    shared = loader(2, length=32_000, extra={"sampler": "DistributedSampler"})
    assert WorkersRestarted().check(restarting(its_loader=shared)) is None
    ranks = replace(facts().run, ranks=4)
    assert "about 250 steps" in found(WorkersRestarted, restarting(its_loader=shared, run=ranks)).why


def test_a_loader_made_in_every_epoch_is_told_to_be_made_once():
    finding = found(WorkersRestarted, replace(restarting(), settings=settings((loader(2), loader(2, id=2)))))
    assert "make one before the epochs" in finding.fix.summary
    assert "loaders are made at this line" in finding.why
    kept = tuple(loader(2, id=number, persistent_workers=True) for number in (1, 2))
    assert WorkersRestarted().check(replace(restarting(), settings=settings(kept))) is None


def test_a_start_below_a_twentieth_of_the_step_is_silent():
    assert WorkersRestarted().check(restarting(iter_ms=6.1)) is None  # 80 % of it are no twentieth
    assert found(WorkersRestarted, restarting(iter_ms=6.3)).severity is Severity.INFO
    assert WorkersRestarted({"threshold": 0.4}).check(restarting()) is None


def test_a_loader_that_was_not_seen_is_not_judged():
    unseen = replace(restarting(), settings=replace(settings(), loaders=()))
    assert isinstance(WorkersRestarted().check(unseen), Abstention)


# data/handing-over


def test_batches_that_are_cheap_to_make_are_made_on_the_training_thread():
    finding = found(HandingOver, loading())
    assert finding.title == "40 % of each 100 ms step waits for 2 workers, though batches take only 5.0 ms to make"
    assert "num_workers=0" in finding.fix.code
    assert finding.gain.step_ms_low == pytest.approx(100 - 35)
    assert finding.gain.step_ms_high == pytest.approx(100 - 0.75 * 35)


def test_tensors_in_memory_are_indexed_in_whole_batches():
    tensors = loader(2, dataset="TensorDataset", extra={"collate_fn": "default_collate"})
    assert "inputs[chosen]" in found(HandingOver, loading(its_loader=tensors)).fix.code
    for other in (replace(tensors, shuffle=False), replace(tensors, extra={"collate_fn": "pad"})):
        assert "num_workers=0" in found(HandingOver, loading(its_loader=other)).fix.code


def test_a_wait_in_which_the_training_thread_works_is_not_the_batches_way():
    busy = loading()
    wait = busy.stages["data_wait"]
    own = replace(line(12, 0.4 * wait.mean_ms, "bucket.sort()"), share_of_stage=0.4)
    stages = {**busy.stages, "data_wait": replace(wait, lines=(own,))}
    assert isinstance(HandingOver().check(replace(busy, stages=stages)), Abstention)
    at_the_loop = replace(own, site=wait.call)
    stages = {**busy.stages, "data_wait": replace(wait, lines=(at_the_loop,))}
    assert isinstance(HandingOver().check(replace(busy, stages=stages)), Finding)


def test_spawned_workers_that_start_anew_are_not_told_from_handing_over():
    assert isinstance(HandingOver().check(loading(its_loader=loader(2, context="spawn"))), Abstention)


@pytest.mark.parametrize(("batch_ms", "fires"), [(19.9, True), (20.1, False)])
def test_the_wait_must_be_twice_what_batches_cost(batch_ms, fires):
    assert isinstance(HandingOver().check(loading(its_workers=workers(4, 0, batch_ms, 0))), Finding) is fires
    assert HandingOver({"times": 9.0}).check(loading()) is None


def test_batches_of_a_step_count_together():
    said = HandingOver().check(loading(steps=steps(100.0, batches=5.0, micro_batches=5.0)))
    assert said is None  # 5 x 5 ms against a wait of 40 ms


def test_the_training_thread_is_no_worker():
    assert HandingOver().check(loading(its_workers=workers(0, 0, 4, 1))) is None


def test_pinning_is_not_free_on_the_training_thread():
    pinned = loader(2, pin_memory=True)
    said = HandingOver().check(loading(its_loader=pinned, machine=gpu(device_times=True)))
    assert isinstance(said, Abstention)
    assert "pinned" in said.reason
    assert isinstance(HandingOver().check(loading(its_loader=pinned)), Finding)  # on a CPU nothing is pinned


def test_starting_workers_explains_waiting_for_cheap_batches():
    starting = loading(iter_ms=20.0, its_loader=loader(2, length=640, prefetch_factor=2))
    judgement = judge(starting)
    assert [finding.rule for finding in judgement.findings] == ["data/workers-restarted"]
    assert ("data/handing-over", "data/workers-restarted") in [(f.rule, by) for f, by in judgement.folded]


# data/uneven-batches


def uneven(p95_ms=500.0, prefetch_factor=2, batches=500, **changes):
    its = workers(4, 0, 100, 0, batch_p95_ms=p95_ms, batches=batches)
    return loading(its_workers=its, its_loader=loader(4, prefetch_factor=prefetch_factor), **changes)


def test_slow_batches_that_outlast_the_prepared_ones_ask_for_more_ahead():
    finding = found(UnevenBatches, uneven())
    assert finding.title == (
        "40 % of each 100 ms step waits for slow batches: 1 in 20 takes 500 ms or more, the mean is 100 ms"
    )
    assert "8 batches prepared ahead last the loop 480 ms" in finding.why  # 8 x 60 ms
    assert "prefetch_factor=5" in finding.fix.code  # 2 x 500 ms / (4 x 60 ms), rounded up
    assert finding.gain.step_ms_low == pytest.approx(60.0)
    assert finding.gain.step_ms_high == pytest.approx(84.0)
    assert judge(uneven()).verdict.rule == "data/uneven-batches"


def test_slow_batches_that_the_prepared_ones_outlast_are_no_matter():
    assert UnevenBatches().check(uneven(p95_ms=479.0)) is None
    assert UnevenBatches().check(uneven(prefetch_factor=5)) is None
    assert UnevenBatches({"uneven": 6.0}).check(uneven()) is None


def test_very_slow_batches_are_to_be_grouped_when_enough_are_ahead():
    finding = found(UnevenBatches, uneven(p95_ms=9000.0, prefetch_factor=16))
    assert "batch_sampler" in finding.fix.code


def test_few_batches_or_an_unknown_prefetch_are_not_judged():
    for said in (UnevenBatches().check(uneven(batches=99)), UnevenBatches().check(uneven(prefetch_factor=None))):
        assert isinstance(said, Abstention)


# data/too-many-workers


def crowded(delay_ms=60.0, processes=16, idle=0.1):
    its = workers(processes, 0, 40, 0, run_delay_ms=delay_ms, batch_ms=40 + delay_ms)
    return loading(its_workers=its, its_loader=loader(processes), machine=cpu(idle, cores=8))


def test_more_workers_than_cores_that_wait_for_a_core_are_noted():
    finding = found(TooManyWorkers, crowded(delay_ms=120.0))
    assert finding.title == "16 workers share 8 cores: a batch waits 120 ms of its 160 ms for one"
    assert (finding.severity, finding.gain) == (Severity.INFO, None)
    assert "num_workers=7" in finding.fix.code


def test_workers_that_find_a_core_are_let_be():
    assert TooManyWorkers().check(crowded(120.0, processes=8)) is None
    assert TooManyWorkers().check(crowded(120.0, idle=0.6)) is None
    assert TooManyWorkers().check(crowded(13.0)) is None  # 25 % of 53 ms
    assert TooManyWorkers({"delay_share": 0.8}).check(crowded(120.0)) is None
    assert isinstance(TooManyWorkers().check(crowded(120.0, idle=None)), Abstention)


def test_a_wait_for_a_core_below_a_twentieth_of_the_step_is_silent():
    assert TooManyWorkers().check(crowded(79.0)) is None  # 79 ms in 16 workers
    assert isinstance(TooManyWorkers().check(crowded(81.0)), Finding)


# all


@pytest.mark.parametrize("rule", RULES)
def test_cured_and_healthy_trainings_are_silent(rule):
    cured = loading(0.5, workers(4, 0, 100, 0), loader(4, persistent_workers=True, prefetch_factor=5), CURED)
    for its_facts in (facts(), cured, facts({"forward": 30.0, "backward": 60.0})):
        assert rule().check(its_facts) is None


@pytest.mark.parametrize("rule", [HandingOver, UnevenBatches])
def test_rules_abstain_when_workers_were_not_observed(rule):
    said = rule().check(facts(WAITS, not_measured={"workers": "the workers were started by exec"}))
    assert said == Abstention(rule.id, "the workers were started by exec")


@pytest.mark.parametrize("rule", [HandingOver, UnevenBatches])
def test_workers_that_can_not_keep_up_are_another_matter(rule):
    slow = workers(2, 0, 141, 0, batch_p95_ms=900.0)
    assert rule().check(loading(its_workers=slow)) is None
