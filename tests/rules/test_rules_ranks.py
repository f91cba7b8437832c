"""The rules of communication and of stragglers, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from facts_builder import TRAIN, cpu, facts, gpu, settings, steps

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import (
    Cause,
    Clocks,
    CollectiveRow,
    LateRank,
    LinkModel,
    RankLine,
    RanksFacts,
    Reduction,
    SlowLink,
)
from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Bottleneck, Finding, Rule, Severity
from profiler.rules.catalogue import judge
from profiler.rules.comm.accumulation import AccumulationWithoutNoSync
from profiler.rules.comm.bucket_size import BucketSize
from profiler.rules.comm.by_hand import GradientsByHand
from profiler.rules.comm.data_parallel import DataParallelInUse
from profiler.rules.comm.does_not_pay import DoesNotPay
from profiler.rules.comm.full_precision import FullPrecisionGradients
from profiler.rules.comm.gradient_copies import GradientCopies
from profiler.rules.comm.little_work import LittleWork
from profiler.rules.comm.reshard import ReshardAfterForward
from profiler.rules.comm.slow_link import SlowLinkBetweenRanks
from profiler.rules.comm.small_messages import ManySmallMessages
from profiler.rules.comm.unused_parameters import FindUnusedParameters
from profiler.rules.comm.wrong_backend import GlooOnGpus
from profiler.rules.straggler.compute import LateByCompute
from profiler.rules.straggler.data import LateByData
from profiler.rules.straggler.garbage_collection import LateByGarbageCollection
from profiler.rules.straggler.imbalance import Imbalance
from profiler.rules.straggler.one_rank_work import OneRankWork
from profiler.rules.straggler.python import LateByPython

STEP = {"data_wait": 1.0, "forward": 15.0, "backward": 30.0, "optimizer": 4.0, "communication": 50.0}  # 100 ms
MIB = 1 << 20


def reduction(**changes: Any) -> Reduction:
    """A reducer of 80 MiB in eight buckets, half of whose work is hidden."""
    made = Reduction(
        module="Net",
        bucket_cap_bytes=10 * MIB,
        bucket_bytes=(10 * MIB,) * 8,
        parameter_bytes=80 * MIB,
        parameter_tensors=100,
        unused_parameter_bytes=0,
        dtypes="float",
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
        static_graph=False,
        comm_hook=None,
        buffers_broadcast=False,
        synced=500,
        unsynced=0,
        samples=30,
        total_ms=70.0,
        hidden_ms=30.0,
        compute_ms=40.0,
    )
    return replace(made, **changes)


def job(**changes: Any) -> RanksFacts:
    """Four ranks that exchange gradients for 40 ms a step and wait for each other for 10."""
    made = RanksFacts(
        world_size=4,
        hosts=1,
        recorded=(0, 1, 2, 3),
        missing=(),
        typical=0,
        slowest=None,
        compared_steps=200,
        step_ms=100.0,
        exposed_ms=50.0,
        network_ms=40.0,
        waiting_ms=10.0,
        hidden_ms=30.0,
        phases_ms={"backward": 50.0},
        rows=(),
        late=None,
        turns_ms=10.0,
        turns=(),
        collectives=(),
        reduction=reduction(),
        backend="gloo",
        clocks=Clocks("one host", True, 0.0, 0.0, 0.0),
        hang=None,
        withheld={},
        notices=(),
    )
    return replace(made, **changes)


def ranked(its_job: RanksFacts | None = None, **changes: Any) -> Facts:
    """A job's facts, with DDP wrapped at train.py:20."""
    made = replace(settings(), sites={"ddp": Site(TRAIN, 20)})
    return replace(facts(STEP, settings=made), ranks=its_job or job(), **changes)


def late(what: str, ms: float = 20.0, **changes: Any) -> RanksFacts:
    """Rank 2 comes late by this much."""
    rank = LateRank(
        rank=2,
        late_ms=ms,
        share_of_steps=0.9,
        share_of_waiting=0.95,
        causes=(Cause(what, ms, ms + 5.0, 5.0),),
        line=RankLine(Site(TRAIN, 77), "", ms, "log(loss)"),
        span=None,
        span_site=None,
        uniformly_slower=None,
        items_ratio=None,
        worker_part=None,
    )
    return job(late=replace(rank, **changes), waiting_ms=ms, network_ms=5.0, exposed_ms=ms + 5.0, turns_ms=0.0)


def found(rule: type[Rule], its_facts: Facts) -> Finding:
    said = rule().check(its_facts)
    assert isinstance(said, Finding), said
    return said


COMM = (
    AccumulationWithoutNoSync,
    BucketSize,
    DoesNotPay,
    FullPrecisionGradients,
    GradientsByHand,
    LittleWork,
    ManySmallMessages,
    SlowLinkBetweenRanks,
)
STRAGGLER = (LateByData, LateByCompute, LateByPython, LateByGarbageCollection, OneRankWork, Imbalance)


@pytest.mark.parametrize("rule", [*COMM, *STRAGGLER, GradientCopies, FindUnusedParameters, GlooOnGpus])
def test_one_rank_talks_to_nobody(rule: type[Rule]) -> None:
    assert rule().check(facts(STEP)) is None


@pytest.mark.parametrize("rule", STRAGGLER)
def test_waiting_that_was_not_told_from_transfer_blames_nobody(rule: type[Rule]) -> None:
    unsure = job(network_ms=None, waiting_ms=None, turns_ms=None, withheld={"waiting": "the clocks are unsure"})
    said = rule().check(ranked(unsure))
    assert isinstance(said, Abstention) and "clocks" in said.reason


# communication


def test_accumulation_exchanges_once_instead_of_four_times() -> None:
    accumulating = ranked(steps=steps(100.0, micro_batches=4.0))
    finding = found(AccumulationWithoutNoSync, accumulating)
    assert finding.gain is not None and finding.gain.step_ms_low == pytest.approx(70.0)  # 40 x 3/4
    assert "4 times a step" in finding.title and finding.bottleneck is Bottleneck.COMMUNICATION
    quiet = ranked(job(reduction=reduction(unsynced=1500)), steps=steps(100.0, micro_batches=4.0))
    assert AccumulationWithoutNoSync().check(quiet) is None
    assert AccumulationWithoutNoSync().check(ranked()) is None


def test_too_little_work_names_the_batch_at_which_it_would_do() -> None:
    finding = found(LittleWork, ranked())
    assert finding.evidence["batch_factor"] == 8  # 9 x 40 / 50, rounded up
    assert finding.severity is Severity.CRITICAL
    assert LittleWork().check(ranked(job(reduction=reduction(total_ms=20.0)))) is None  # buckets could hide it
    assert LittleWork().check(ranked(job(network_ms=15.0))) is None
    unsampled = LittleWork().check(ranked(job(reduction=reduction(total_ms=None))))
    assert isinstance(unsampled, Abstention)


def test_one_bucket_for_the_whole_model_is_too_large_and_hundreds_are_too_small() -> None:
    one = ranked(job(reduction=reduction(bucket_bytes=(80 * MIB,), hidden_ms=0.0)))
    assert "too large" in found(BucketSize, one).title
    assert found(BucketSize, one).fix.code.endswith("bucket_cap_mb=10)")
    many = ranked(job(reduction=reduction(bucket_bytes=(MIB // 8,) * 64)))
    assert "too small" in found(BucketSize, many).title
    assert BucketSize().check(ranked()) is None
    hidden = ranked(job(reduction=reduction(bucket_bytes=(80 * MIB,), hidden_ms=40.0)))
    assert BucketSize().check(hidden) is None


def test_gradients_in_32_bits_are_to_be_sent_in_16() -> None:
    finding = found(FullPrecisionGradients, ranked())
    assert "fp16_compress_hook" in finding.fix.code and (finding.fix.file, finding.fix.line) == (TRAIN, 20)
    assert "bf16_compress_hook" in found(FullPrecisionGradients, ranked(job(backend="nccl"))).fix.code
    for done in (reduction(comm_hook="bf16"), reduction(dtypes="c10::BFloat16")):
        assert FullPrecisionGradients().check(ranked(job(reduction=done))) is None


def row(**changes: Any) -> CollectiveRow:
    """Two hundred small all-reduces a step."""
    made = CollectiveRow("all_reduce", "default", 4, "gloo", "float32", 200.0, 4096.0, 0.2, 0.1, 0.02)
    return replace(made, **changes)


def test_many_small_messages_are_to_be_one() -> None:
    finding = found(ManySmallMessages, ranked(job(collectives=(row(),), reduction=None)))
    assert finding.evidence["messages_per_step"] == 200
    assert finding.gain is not None and finding.gain.step_ms_low < 75
    few = job(collectives=(row(calls=4.0, ms=10.0),), reduction=None)
    large = job(collectives=(row(bytes=float(MIB)),), reduction=None)
    assert ManySmallMessages().check(ranked(few)) is None
    assert ManySmallMessages().check(ranked(large)) is None


def test_gradients_exchanged_by_hand_after_backward_hide_behind_nothing() -> None:
    by_hand = job(reduction=None, phases_ms={"other": 50.0}, collectives=(row(calls=2.0, bytes=1e9, ms=20.0),))
    assert found(GradientsByHand, ranked(by_hand)).gain is not None
    assert GradientsByHand().check(ranked()) is None
    metrics = job(reduction=None, phases_ms={"other": 50.0}, collectives=(row(calls=2.0, bytes=8.0, ms=20.0),))
    assert GradientsByHand().check(ranked(metrics)) is None


def test_parameters_that_are_gathered_twice_may_stay_gathered() -> None:
    rows = (row(kind="all_gather", calls=16.0, ms=2.0, bytes=1e6), row(kind="reduce_scatter", calls=8.0, ms=1.0))
    sharded = job(reduction=None, phases_ms={"forward": 16.0, "backward": 24.0}, collectives=rows)
    made = replace(settings(), values={"fsdp": {"reshard_after_forward": None}}, sites={"fsdp": Site(TRAIN, 18)})
    finding = found(ReshardAfterForward, ranked(sharded, settings=made))
    assert finding.evidence["gathered_again_ms"] == 16.0 and finding.fix.line == 18
    kept = replace(made, values={"fsdp": {"reshard_after_forward": False}})
    assert ReshardAfterForward().check(ranked(sharded, settings=kept)) is None
    assert ReshardAfterForward().check(ranked(sharded)) is None


def test_copies_out_of_buckets_are_seen_by_the_deep_window() -> None:
    copying = job(reduction=reduction(gradient_as_bucket_view=False))
    seen = ({"name": "aten::copy_", "stage": "communication", "ms_per_step": 9.0, "calls_per_step": 16.0},)
    assert found(GradientCopies, ranked(copying, operators=seen)).evidence["copies_ms"] == 9.0
    assert isinstance(GradientCopies().check(ranked(copying, operators=())), Abstention)
    assert GradientCopies().check(ranked(operators=seen)) is None


def test_a_search_for_unused_parameters_that_finds_none_is_a_note() -> None:
    searching = job(reduction=reduction(find_unused_parameters=True))
    assert found(FindUnusedParameters, ranked(searching)).severity is Severity.INFO
    some = job(reduction=reduction(find_unused_parameters=True, unused_parameter_bytes=4096))
    assert FindUnusedParameters().check(ranked(some)) is None


def test_gloo_and_data_parallel_are_said_on_gpus_only() -> None:
    assert GlooOnGpus().check(ranked()) is None
    on_gpus = ranked(machine=gpu(device_times=True))
    assert found(GlooOnGpus, on_gpus).severity is Severity.WARNING
    assert GlooOnGpus().check(replace(on_gpus, ranks=job(backend="nccl"))) is None
    wrapped = replace(on_gpus.settings, values={"data_parallel": {}}, sites={"data_parallel": Site(TRAIN, 9)})
    assert found(DataParallelInUse, replace(on_gpus, ranks=None, settings=wrapped)).fix.line == 9
    assert DataParallelInUse().check(replace(facts(STEP), settings=wrapped)) is None


def test_ranks_that_add_up_to_one_do_not_pay() -> None:
    finding = found(DoesNotPay, ranked(job(world_size=2, exposed_ms=55.0)))
    assert finding.evidence["worth_ranks"] == pytest.approx(0.9)
    assert finding.gain is not None
    assert DoesNotPay().check(ranked()) is None  # four ranks worth two


def test_communication_is_the_verdict_where_gradients_hold_the_step_up() -> None:
    verdict = judge(ranked(), read_line=lambda file, line: "").verdict
    assert verdict.bottleneck is Bottleneck.COMMUNICATION


def test_a_verdict_does_not_deny_a_note_on_the_same_thing() -> None:
    little = {"data_wait": 1.0, "forward": 5.0, "backward": 10.0, "optimizer": 4.0, "communication": 20.0}
    without = job(network_ms=None, waiting_ms=None, turns_ms=None, reduction=None, withheld={"waiting": "unsure"})
    judged = judge(replace(facts(little), ranks=without), read_line=lambda file, line: "")
    assert "no cure for it was found" in judged.verdict.summary
    searching = replace(without, reduction=reduction(find_unused_parameters=True))
    judged = judge(replace(facts(little), ranks=searching), read_line=lambda file, line: "")
    note = next(each for each in judged.findings if each.bottleneck is Bottleneck.COMMUNICATION)
    assert "no cure" not in judged.verdict.summary and note.title in judged.verdict.summary


# stragglers


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (LateByData, "data_wait"),
        (LateByCompute, "forward"),
        (LateByCompute, "optimizer"),
        (LateByPython, "other"),
        (LateByGarbageCollection, "gc"),
        (OneRankWork, "gap"),
    ],
)
def test_a_late_rank_is_called_so_by_its_cause_alone(rule: type[Rule], what: str) -> None:
    finding = found(rule, ranked(late(what)))
    assert "rank 2" in finding.title and finding.bottleneck is Bottleneck.STRAGGLER
    assert finding.gain is not None and finding.gain.step_ms_low == pytest.approx(80.0)
    for other in set(STRAGGLER) - {rule, Imbalance}:
        assert other().check(ranked(late(what))) is None
    verdict = judge(ranked(late(what)), read_line=lambda file, line: "").verdict
    assert (verdict.bottleneck, verdict.rule) == (Bottleneck.STRAGGLER, rule.id)
    assert rule().check(ranked(late(what, ms=4.0))) is None


def test_a_late_rank_is_explained_by_more_items_or_by_a_slower_host() -> None:
    assert "40 % more items" in found(LateByCompute, ranked(late("forward", items_ratio=1.4))).why
    assert "1.30 times as long" in found(LateByCompute, ranked(late("forward", uniformly_slower=1.3))).why
    busy = found(LateByCompute, ranked(late("forward", without_core=0.4, others_without_core=0.02)))
    assert "no core for 40 % of the time, the others' for 2.0 %" in busy.why
    assert "cores of its own" in busy.fix.summary and busy.evidence["without_core_share"] == 0.4
    alike = late("forward", without_core=0.4, others_without_core=0.3, uniformly_slower=1.3)
    unread = late("forward", without_core=0.4, uniformly_slower=1.3)
    for none_stands_out in (alike, unread):
        assert "no core" not in found(LateByCompute, ranked(none_stands_out)).why
    assert "heat or power" in found(LateByCompute, ranked(late("forward", throttled=True))).why
    assert "loading" in found(LateByData, ranked(late("data_wait", worker_part="load"))).why
    saving = late("gap", span="checkpoint", span_site=Site(TRAIN, 90))
    assert "saves its checkpoints" in found(OneRankWork, ranked(saving)).title
    assert found(OneRankWork, ranked(saving)).fix.line == 90


def test_a_rank_that_computes_longer_in_several_parts_saves_all_of_them() -> None:
    parts = (Cause("forward", 12.0, 27.0, 15.0), Cause("backward", 8.0, 38.0, 30.0))
    finding = found(LateByCompute, ranked(late("forward", causes=parts)))
    assert finding.gain is not None and finding.gain.step_ms_low == pytest.approx(80.0)
    assert "forward by 12 ms and backward by 8.0 ms" in finding.why and "Only this part" not in finding.why
    with_data = (*parts[:1], Cause("data_wait", 8.0, 9.0, 1.0))
    finding = found(LateByCompute, ranked(late("forward", causes=with_data)))
    assert finding.gain is not None and finding.gain.step_ms_low == pytest.approx(88.0)  # the wait is another cause's


def test_a_rank_that_takes_most_of_the_step_promises_what_is_waited_for_it() -> None:
    gain = found(LateByData, ranked(late("data_wait", 85.0))).gain
    assert gain is not None
    assert (gain.step_ms_low, gain.step_ms_high) == (pytest.approx(15.0), pytest.approx(22.5))


def test_a_want_of_cores_that_explains_little_of_the_lateness_is_not_its_reason() -> None:
    lost = {"without_core": 0.15, "others_without_core": 0.05}  # 10 of 100 ms
    assert "no core" in found(LateByCompute, ranked(late("forward", 20.0, **lost))).why
    assert "no core" not in found(LateByCompute, ranked(late("forward", 30.0, **lost))).why


def test_what_makes_a_rank_late_now_and_then_is_something_that_it_alone_runs() -> None:
    finding = found(LateByCompute, ranked(late("forward", cause_steps=0.1)))
    assert "late to a 100 ms step on average" in finding.title
    assert "in 10 % of its steps" in finding.why and "evaluation" in finding.fix.summary
    steady = found(LateByCompute, ranked(late("forward", cause_steps=0.97)))
    assert "late to each 100 ms step" in steady.title and "Only this part" in steady.why


def test_gradients_answer_only_for_their_part_of_what_is_exchanged() -> None:
    mixed = job(kinds_ms={"gradients (DDP)": 20.0, "all_reduce": 20.0})
    finding = found(FullPrecisionGradients, ranked(mixed))
    assert "20 ms (20 %)" in finding.title and "of gradients a step" in finding.why
    mostly_others = job(kinds_ms={"gradients (DDP)": 4.0, "objects": 36.0})
    assert FullPrecisionGradients().check(ranked(mostly_others)) is None
    assert LittleWork().check(ranked(mostly_others)) is None
    together = found(DoesNotPay, ranked(replace(mostly_others, world_size=2, exposed_ms=55.0)))
    assert "tensors between the ranks" in together.why and "gradients" not in together.why


def test_ranks_that_take_turns_have_uneven_batches_unless_cores_were_short() -> None:
    uneven = job(turns_ms=20.0, turns=(Cause("forward", 12.0, 27.0, 15.0),))
    idle = cpu(idle_cores=4.0)
    assert "take turns" in found(Imbalance, ranked(uneven, machine=idle)).title
    jitter = job(turns_ms=20.0, turns=(Cause("backward", 18.0, 48.0, 30.0),))
    assert Imbalance().check(ranked(jitter, machine=idle)) is None
    assert isinstance(Imbalance().check(ranked(uneven, machine=cpu(idle_cores=0.1))), Abstention)


def test_a_clock_that_is_unsure_names_no_late_rank() -> None:
    unsure = job(withheld={"late rank": "the ranks' clocks could not be brought together"}, waiting_ms=20.0)
    said = LateByData().check(ranked(unsure))
    assert isinstance(said, Abstention) and "clocks" in said.reason


# with the link's latency and rate

SLOW = LinkModel("all_reduce", "gloo", 4, 0.1, 0.01, 1.0, 0.05, 64.0, 64e6, 8)  # 0.1 ms a call, 1 GB/s


def test_what_one_message_would_take_is_told_by_the_link() -> None:
    small = job(collectives=(row(ms=0.106),), reduction=None, links=(SLOW,), network_ms=22.0)
    finding = found(ManySmallMessages, ranked(small))
    joined_ms = 0.1 + 200 * 4096 * 1.5 / 1e6  # 1.33 ms of what were 21.2
    assert finding.evidence["joined_ms"] == pytest.approx(joined_ms)
    assert finding.gain is not None and finding.gain.step_ms_low == pytest.approx(100 - 21.2 + joined_ms, abs=0.1)
    assert "1.3 ms" in finding.why
    bandwidth = job(  # 40 messages of 256 KiB take as long in one piece
        collectives=(row(calls=40.0, bytes=float(1 << 18), ms=0.45),), reduction=None, network_ms=20.0
    )
    assert isinstance(ManySmallMessages().check(ranked(bandwidth)), Finding)
    fast = replace(SLOW, latency_ms=0.01)
    assert ManySmallMessages().check(ranked(replace(bandwidth, links=(fast,)))) is None


def test_an_unsure_link_or_a_message_far_beyond_what_was_measured_changes_nothing() -> None:
    small = job(collectives=(row(),), reduction=None)
    plain = found(ManySmallMessages, ranked(small))
    for link in (
        replace(SLOW, gigabytes_error=0.9, latency_error_ms=0.09),
        replace(SLOW, largest_bytes=4096.0),
        replace(SLOW, kind="all_gather"),
    ):
        assert found(ManySmallMessages, ranked(replace(small, links=(link,)))).gain == plain.gain


def test_buckets_are_as_large_as_the_link_and_the_backward_pass_make_best() -> None:
    one = reduction(bucket_bytes=(80 * MIB,), hidden_ms=0.0, compute_ms=200.0, total_ms=130.0)
    quick = found(BucketSize, ranked(job(reduction=one, links=(SLOW,))))  # 126 ms fit behind 200
    assert quick.evidence["best_buckets"] == 64 and quick.fix.code.endswith("bucket_cap_mb=1)")
    costly = replace(SLOW, latency_ms=20.0, latency_error_ms=1.0)  # each message costs 20 ms
    few = found(BucketSize, ranked(job(reduction=one, links=(costly,))))
    assert few.evidence["best_buckets"] == 4 and few.fix.code.endswith("bucket_cap_mb=20)")
    many = reduction(bucket_bytes=(MIB // 8,) * 640)
    finding = found(
        BucketSize, ranked(job(reduction=many, links=(replace(SLOW, latency_ms=0.05, latency_error_ms=0.005),)))
    )
    saved = (640 - finding.evidence["best_buckets"]) * 0.05
    assert finding.gain is not None and finding.gain.step_ms_low == pytest.approx(100 - 1.1 * saved, rel=0.02)


def test_the_exchange_against_which_work_is_weighed_is_told_by_the_link() -> None:
    spread = reduction(total_ms=38.0, compute_ms=40.0)  # its buckets came ready all through the backward pass
    assert isinstance(LittleWork().check(ranked(job(reduction=spread))), Finding)
    fast = replace(SLOW, gigabytes_per_s=10.0, gigabytes_error=0.5)
    assert LittleWork().check(ranked(job(reduction=spread, links=(fast,)))) is None  # 13 ms of transfer could hide
    finding = found(LittleWork, ranked(job(reduction=spread, links=(SLOW,))))
    assert finding.evidence["exchange_ms"] == pytest.approx(8 * 0.1 + 80 * MIB * 1.5 / 1e6)
    assert (
        finding.evidence["hidden_at_factor"] == pytest.approx(3.17, abs=0.01) and "3.2 times the batch" in finding.why
    )


def test_ranks_that_do_not_pay_are_told_the_batch_at_which_they_would() -> None:
    finding = found(DoesNotPay, ranked(job(world_size=2, exposed_ms=55.0)))
    factor = finding.evidence["batch_factor"]
    assert 2 * factor * 45 / (factor * 45 + 55) == pytest.approx(1.5)


def slow(**changes: Any) -> SlowLink:
    """Ranks 2 and 3 exchange 4 MB in 20 ms twice a step, three other pairs in 8."""
    made = SlowLink((2, 3), False, "all_reduce", 4e6, 2.0, 20.0, 8.0, 3, None, None)
    return replace(made, **changes)


def test_a_slow_link_is_named_with_what_it_costs() -> None:
    finding = found(SlowLinkBetweenRanks, ranked(job(slow_links=(slow(host="node-1"),))))
    assert "ranks 2, 3" in finding.title and "host node-1" in finding.why and "host node-1" in finding.fix.summary
    assert finding.evidence["excess_ms"] == pytest.approx(24.0)
    assert finding.gain is not None and finding.gain.step_ms_low == pytest.approx(76.0)
    pair = found(SlowLinkBetweenRanks, ranked(job(slow_links=(slow(pair=True, kind="message"),))))
    assert pair.title.startswith("ranks 2 and 3 exchange") and "3 other pairs" in pair.title


def test_a_slow_link_that_costs_little_or_was_not_compared_is_no_finding() -> None:
    assert SlowLinkBetweenRanks().check(ranked()) is None
    assert SlowLinkBetweenRanks().check(ranked(job(slow_links=(slow(calls=0.1),)))) is None
    assert SlowLinkBetweenRanks({"slower": 3.0}).check(ranked(job(slow_links=(slow(),)))) is None
    said = SlowLinkBetweenRanks().check(ranked(job(withheld={"slow link": "the device runs behind the host"})))
    assert isinstance(said, Abstention) and "device" in said.reason
    both = (slow(), slow(kind="all_gather", ms=13.0), slow(ranks=(6, 7)))  # two groups at once
    assert found(SlowLinkBetweenRanks, ranked(job(slow_links=both))).evidence["excess_ms"] == pytest.approx(34.0)
