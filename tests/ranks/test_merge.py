"""The job from its ranks' facts: what is planted in a simulation is found, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from generated import job

from profiler.analysis.measured import Measured
from profiler.analysis.rank_facts import Exchange, LastSeen, RankFacts
from profiler.analysis.ranks import clocks
from profiler.analysis.ranks.job import one_attempt
from profiler.analysis.ranks.matched import match
from profiler.analysis.ranks.merge import merge
from profiler.analysis.ranks.reduce import series
from profiler.analysis.site import Site
from profiler.analysis.stored import from_json, to_json
from profiler.analysis.tables import Table


@pytest.mark.parametrize("stage", ["data_wait", "forward", "backward", "other"])
@pytest.mark.parametrize("ranks", [2, 4, 16])
def test_a_late_rank_is_found_with_the_stage_that_makes_it_late(stage: str, ranks: int) -> None:
    found = merge(job(ranks, late={1: (stage, 12.0)}))
    assert found is not None and found.late is not None
    assert (found.late.rank, found.late.causes[0].what, found.slowest) == (1, stage, 1)
    assert found.late.late_ms == pytest.approx(12.0, rel=0.1)
    assert found.late.share_of_steps > 0.95
    assert found.late.line is not None and found.late.line.site.line == 41
    assert found.network_ms == pytest.approx(4.0, rel=0.15)  # what the transfer was planted with
    assert found.typical != 1


def test_waiting_and_transfer_make_up_what_is_exposed() -> None:
    found = merge(job(8, late={3: ("forward", 6.0)}))
    assert found is not None and None not in (found.exposed_ms, found.network_ms, found.waiting_ms)
    assert found.network_ms + found.waiting_ms == pytest.approx(found.exposed_ms, rel=0.02)  # type: ignore[operator]
    waited = {row.rank: row.waiting_ms for row in found.rows}
    assert waited[3] == pytest.approx(0, abs=0.3)
    assert all(waited[rank] == pytest.approx(6.0, rel=0.15) for rank in waited if rank != 3)


def test_ranks_that_take_turns_are_no_straggler() -> None:
    found = merge(job(4, random_ms=12.0))
    assert found is not None and found.late is None
    assert "turns" in found.withheld["late rank"]
    assert found.turns_ms is not None and found.turns_ms > 3.0


def test_even_ranks_wait_for_the_transfer_only() -> None:
    found = merge(job(4))
    assert found is not None and found.late is None and found.slowest is None and found.typical == 0
    assert found.turns_ms is not None and found.turns_ms < 0.5
    assert found.network_ms == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(("every", "share"), [(1, 1.0), (8, 1 / 8)])
def test_how_often_its_cause_makes_a_rank_late_is_told(every: int, share: float) -> None:
    found = merge(job(4, late={1: ("forward", 60.0)}, late_every=every))
    assert found is not None and found.late is not None and found.late.rank == 1
    assert found.late.cause_steps == pytest.approx(share, abs=0.03)


def test_a_rank_whose_record_was_torn_off_speaks_for_the_job_only_where_all_were() -> None:
    torn = [replace(rank, ended=rank.rank == 2) for rank in job(4)]
    found = merge(torn)
    assert found is not None and found.typical == 2
    found = merge([replace(rank, ended=False) for rank in torn])
    assert found is not None and found.typical == 0


@pytest.mark.parametrize("drift", [0.0, 2e-5, -1e-4])
@pytest.mark.parametrize("offset_ns", [0, 3_000_000_000_123, -47_000_000])
@pytest.mark.parametrize("late", [None, {1: ("forward", 15.0)}], ids=["even", "late"])
def test_planted_clocks_are_found_within_the_stated_error(
    offset_ns: int, drift: float, late: dict[int, tuple[str, float]] | None
) -> None:
    ranks = job(2, hosts=["a", "b"], offsets_ns={"b": offset_ns}, drift={"b": drift}, late=late)
    matched = match(ranks)
    found, offsets = clocks.align(ranks, matched)
    assert found.aligned and matched is not None
    true_ms = clocks.arrivals(job(2, late=late), match(job(2, late=late)), {"one|one": offsets["a|a"]}, ["backward"])  # type: ignore[arg-type]
    ours_ms = clocks.arrivals(ranks, matched, offsets, ["backward"])
    assert np.max(np.abs(ours_ms - true_ms)) <= found.error_ms
    assert found.error_ms < 6
    assert found.largest_drift_ppm == pytest.approx(abs(drift) * 1e6, abs=20)  # eight seconds of it


def test_a_late_rank_on_another_host_is_named_in_spite_of_its_clock() -> None:
    planted = {"late": {5: ("data_wait", 20.0)}, "hosts": ["a"] * 4 + ["b"] * 4}
    found = merge(job(8, offsets_ns={"b": 10**12}, drift={"b": 5e-5}, **planted))  # type: ignore[arg-type]
    assert found is not None and found.late is not None and found.late.rank == 5
    assert found.hosts == 2 and found.clocks.method == "collectives"


def test_a_slow_host_is_named_where_all_of_its_ranks_are_late() -> None:
    hosts = [f"node-{rank // 4}" for rank in range(16)]
    found = merge(job(16, hosts=hosts, slower=dict.fromkeys(range(8, 12), 1.4)))
    assert found is not None and found.late is not None
    assert (found.late.host, found.late.host_ranks) == ("node-2", 4)
    assert found.late.uniformly_slower == pytest.approx(1.4, rel=0.05)
    assert found.late.late_ms == pytest.approx(12.0, rel=0.15)  # four tenths of 30 ms of forward and backward
    assert found.typical not in range(8, 12)


def test_a_late_rank_without_a_core_or_on_a_slowed_device_is_told_from_the_others() -> None:
    ranks = job(4, slower={2: 1.4})
    shares = (0.02, 0.03, 0.45, None)
    starved = merge([replace(rank, without_core=share) for rank, share in zip(ranks, shares, strict=True)])
    assert starved is not None and starved.late is not None and starved.late.rank == 2
    assert (starved.late.without_core, starved.late.others_without_core) == (0.45, pytest.approx(0.025))
    read = ((0, 4, 0x20, 0), True), ((0x20,) * 4, False), ((0, 0, 0x04, 0), False)
    for reasons, throttled in (*read, ((0, 4, 0x20, None), False), ((None,) * 4, False)):
        hot = merge([replace(rank, throttle_reasons=bits) for rank, bits in zip(ranks, reasons, strict=True)])
        assert hot is not None and hot.late is not None and hot.late.throttled == throttled


def test_late_ranks_that_hide_behind_a_later_one_are_named_with_their_own_causes() -> None:
    planted = {9: ("data_wait", 25.0), 3: ("forward", 12.0), 14: ("other", 12.0)}
    found = merge(job(16, late=planted))
    assert found is not None and found.late is not None
    assert found.late.rank == 9 and {each.rank for each in found.late.also} == {3, 14}
    for each in found.late.also:
        assert each.cause is not None and each.cause.what == planted[each.rank][0]
        assert each.late_ms == pytest.approx(12.0, rel=0.1)
    assert found.late.alone_ms == pytest.approx(13.0, rel=0.1)  # the two others come 12 ms late still
    assert found.late.saves_ms == pytest.approx(25.0, rel=0.1)


def test_ranks_that_are_late_together_are_named_though_none_is_last_always() -> None:
    found = merge(job(32, late=dict.fromkeys((4, 11, 30), ("forward", 15.0)), random_ms=0.5))
    assert found is not None and found.late is not None and found.late.host is None
    assert {found.late.rank, *(each.rank for each in found.late.also)} == {4, 11, 30}
    assert found.late.alone_ms is not None and found.late.alone_ms < 1.0
    assert found.late.saves_ms == pytest.approx(15.0, rel=0.1)


@pytest.mark.parametrize("ranks", [8, 64])
def test_nobody_is_late_beside_a_late_rank_where_nobody_was_planted(ranks: int) -> None:
    found = merge(job(ranks, late={2: ("forward", 12.0)}, random_ms=4.0))
    assert found is not None and found.late is not None and found.late.also == ()
    even = merge(job(ranks, random_ms=12.0))
    assert even is not None and even.late is None


def test_claims_across_ranks_are_withheld_where_clocks_can_not_be_brought_together() -> None:
    ranks = job(2, steps=40, hosts=["a", "b"], late={1: ("forward", 15.0)})
    start = np.frombuffer(ranks[1].series.start, "<i8")
    torn = start + np.random.default_rng(1).integers(-(10**9), 10**9, len(start))
    ranks[1] = replace(ranks[1], series=replace(ranks[1].series, start=torn.astype("<i8").tobytes()))
    found = merge(ranks)
    assert found is not None and found.late is None and not found.clocks.aligned
    assert "clocks" in found.withheld["late rank"]


def test_waits_in_smaller_groups_are_not_laid_on_the_whole_job() -> None:
    exchange = Exchange("all_reduce", "tensor parallel", 2, "gloo", "float32", 4.0, 1e6, 1.0, 0.5, False)
    found = merge(job(4, exchanges=(exchange,)))
    assert found is not None and found.network_ms is None and "smaller" in found.withheld["waiting"]


def test_of_a_device_that_runs_behind_the_host_nothing_is_claimed_by_the_hosts_clock() -> None:
    found = merge(job(2, late={1: ("forward", 12.0)}, device="NVIDIA H100", backend="nccl", asynchronous=True))
    assert found is not None
    assert (found.exposed_ms, found.network_ms, found.late, found.phases_ms) == (None, None, None, {})
    assert {"waiting", "exposed communication"} <= set(found.withheld)
    on_device = merge(job(2, device="NVIDIA H100", backend="nccl", asynchronous=True, device_times=True))
    assert on_device is not None and on_device.exposed_ms is not None and on_device.network_ms is None


def test_ranks_that_are_missing_dead_short_or_odd_are_said_and_the_rest_is_judged() -> None:
    ranks = job(8, late={2: ("forward", 10.0)})
    ranks[4] = replace(ranks[4], ended=False, steps=150)
    ranks[5] = replace(ranks[5], torch="2.4.0")
    ranks[6] = replace(ranks[6], disabled="an error")
    del ranks[7]
    found = merge(ranks)
    assert found is not None and found.late is not None and found.late.rank == 2
    assert found.missing == (7,) and found.world_size == 8
    said = " ".join(found.notices)
    assert "rank 7 left no record" in said and "rank 6" in said and "rank 4" in said and "2.4.0" in said
    assert {row.rank: row.state for row in found.rows}[4] == "ended without an orderly end"


def hung(rank: RankFacts, doing: str, communicating: bool, for_s: float, line: int) -> RankFacts:
    return replace(rank, ended=False, last=LastSeen(doing, communicating, False, for_s, 1e9, Site("/w/t.py", line)))


def test_a_hang_names_the_collective_who_came_and_where_the_others_stood() -> None:
    ranks = job(4)
    for number in (0, 1, 3):
        ranks[number] = hung(ranks[number], "all_reduce", True, 30.0, 12)
    ranks[2] = hung(ranks[2], "", False, 0.0, 88)
    found = merge(ranks)
    assert found is not None and found.hang is not None
    assert (found.hang.collective, found.hang.arrived, found.hang.absent) == ("all_reduce", (0, 1, 3), (2,))
    assert found.hang.sites["2"].line == 88 and found.hang.for_s == 30.0


def test_a_rank_in_another_collective_did_not_come_to_this_one() -> None:
    ranks = [hung(rank, "barrier", True, 30.0, 12) for rank in job(3)]
    ranks[1] = hung(ranks[1], "gradients (DDP)", True, 25.0, 30)
    found = merge(ranks)
    assert found is not None and found.hang is not None
    assert (found.hang.collective, found.hang.arrived, found.hang.absent) == ("barrier", (0, 2), (1,))
    assert found.hang.doing["1"] == "gradients (DDP)" and found.hang.sites["1"].line == 30


def test_a_rank_that_ended_by_itself_did_not_come_to_the_collective_that_failed_under_the_others() -> None:
    ranks = job(3)
    for number in (0, 2):
        last = LastSeen("gradients (DDP)", True, True, 0.1, 1e9, Site("/w/t.py", 8))
        ranks[number] = replace(ranks[number], last=last)
    found = merge(ranks)
    assert found is not None and found.hang is not None
    assert (found.hang.arrived, found.hang.absent, found.hang.doing["1"]) == ((0, 2), (1,), "had ended")


def test_a_rank_killed_in_an_ordinary_collective_is_no_hang() -> None:
    ranks = job(2)
    ranks[0] = hung(ranks[0], "all_reduce", True, 0.004, 12)
    found = merge(ranks)
    assert found is not None and found.hang is None


def long_run(seed: int, steps: int = 30_000, limit: int = 5_000) -> Measured:
    """A rank whose table was thinned out again and again, around other slow steps than elsewhere."""
    random = np.random.default_rng(seed)
    table = Table(limit)
    for first in range(0, steps, 500):
        index = np.arange(first, first + 500, dtype=np.int64)
        table.add({"index": index, "start_ns": index * 1000, "wall_ns": np.full(500, 900), "part_3": np.full(500, 900)})
        table.thin(random.random(table.rows) < 0.01)
    columns = table.columns()
    return Measured(columns, steps, 0, np.ones(len(columns["index"]), dtype=bool))


def test_ranks_share_steps_even_where_each_has_thinned_out_others() -> None:
    ranks = [replace(rank, series=series(long_run(rank.rank))) for rank in job(8)]
    matched = match(ranks)
    assert matched is not None and len(matched.index) >= 100
    assert np.all(np.diff(matched.start_ns, axis=1) > 0)


def test_what_a_rank_keeps_is_read_back_as_it_was() -> None:
    for rank in job(2, late={1: ("forward", 3.0)}, last=LastSeen("all_reduce", True, False, 3.0, 1.0, None)):
        assert from_json(RankFacts, to_json(rank)) == rank


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format": "one"}', b"\xff"])
def test_what_is_no_ranks_facts_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        from_json(RankFacts, text)


def test_messages_to_several_ranks_add_up() -> None:
    def message(kind: str, peer: int) -> Exchange:
        return Exchange(kind, "default", 4, "gloo", "float32", 2.0, 4096.0, 0.5, 0.1, False, peer=peer)

    first, *rest = job(4)
    ranks = [replace(first, exchanges=tuple(message("send", peer) for peer in (1, 2, 3)))]
    ranks += [replace(rank, exchanges=(message("receive", 0),)) for rank in rest]
    found = merge(ranks)
    assert found is not None
    assert {row.kind: row.calls for row in found.collectives} == {"send": 6.0, "receive": 2.0}


def test_ranks_of_one_attempt_of_an_elastic_job_are_laid_side_by_side() -> None:
    def attempt(restart: int, steps: tuple[int, int]) -> list[RankFacts]:
        return [replace(rank, restart=restart, steps=steps[rank.rank]) for rank in job(2)]

    found: dict[int, list[tuple[RankFacts, Path]]] = {}
    for rank in [*attempt(0, (310, 300)), *attempt(1, (305, 306)), *attempt(2, (0, 0))]:
        found.setdefault(rank.rank, []).append((rank, Path(f"{rank.rank}-{rank.restart}")))
    chosen, said = one_attempt(found)
    assert {number: path.name for number, (_, path) in chosen.items()} == {0: "0-1", 1: "1-1"}
    assert "2 times" in said and "attempt 2" in said
    assert one_attempt({0: found[0][:1], 1: found[1][:1]})[1] == ""
