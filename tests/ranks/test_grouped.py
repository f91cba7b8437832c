"""Groups smaller than the job: waiting is parted from transfer, and who is late is named where steps can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mesh import mesh_job

from profiler.analysis.ranks.merge import merge


@pytest.mark.parametrize("stage", ["forward", "backward"])
@pytest.mark.parametrize("shape", [(2, 2), (4, 2), (2, 8), (32, 8)])
def test_on_a_mesh_the_late_rank_is_found_and_what_each_rank_waits(shape: tuple[int, int], stage: str) -> None:
    facts, waited = mesh_job(*shape, late={1: (stage, 12.0)})
    found = merge(facts)
    assert found is not None and found.late is not None, found and found.withheld
    assert (found.late.rank, found.late.causes[0].what) == (1, stage)
    assert found.network_ms == pytest.approx(6.0, rel=0.1)
    assert found.waiting_ms == pytest.approx(waited.mean(), rel=0.1)
    assert [row.waiting_ms for row in found.rows] == pytest.approx(waited.tolist(), abs=0.5)


def test_even_ranks_on_a_mesh_wait_for_nobody() -> None:
    facts, waited = mesh_job(4, 4)
    found = merge(facts)
    assert found is not None and found.late is None
    assert found.network_ms == pytest.approx(6.0, rel=0.1)
    assert found.waiting_ms == pytest.approx(waited.mean(), abs=0.3)


def test_a_group_with_a_slow_link_makes_no_rank_late_and_waiting_is_still_told() -> None:
    facts, waited = mesh_job(2, 4, transfer_ms={"forward": 8.0}, slow_group=(0, 1, 2, 3), jitter=0.001)
    found = merge(facts)
    assert found is not None and found.late is None
    assert "links of groups differ" in found.withheld["late rank"] and "waiting" not in found.withheld
    assert found.waiting_ms == pytest.approx(waited.mean(), abs=0.3)
    assert found.slow_links and found.slow_links[0].ranks == (0, 1, 2, 3)


def test_ranks_with_other_collectives_are_not_compared_by_their_steps() -> None:
    facts, waited = mesh_job(late={1: ("forward", 12.0)})
    extra = [replace(each, kind="broadcast") for each in facts[0].exchanges]
    facts = [replace(facts[0], exchanges=(*facts[0].exchanges, *extra)), *facts[1:]]
    kinds = {each.kind for each in facts[0].exchanges}
    found = merge(facts)
    assert found is not None and kinds == {"all_reduce", "broadcast"}
    assert found.late is not None and found.waiting_ms == pytest.approx(
        waited.mean(), rel=0.1
    )  # a broadcast waits for nobody
    extra = [replace(each, kind="barrier", calls=0.05, blocked_ms=0.1) for each in facts[0].exchanges[:1]]
    facts = [replace(facts[0], exchanges=(*facts[0].exchanges, *extra)), *facts[1:]]
    found = merge(facts)
    assert found is not None and found.late is None and "different collectives" in found.withheld["late rank"]
    assert found.waiting_ms == pytest.approx(waited.mean(), rel=0.1)


def test_where_single_calls_were_not_kept_waiting_is_withheld() -> None:
    facts, _ = mesh_job()
    found = merge(
        [replace(rank, exchanges=tuple(replace(each, times=b"") for each in rank.exchanges)) for rank in facts]
    )
    assert found is not None and found.waiting_ms is None and found.network_ms is None
    assert "calls were kept" in found.withheld["waiting"]


def test_groups_within_which_no_rank_of_another_host_is_met_do_not_align_clocks() -> None:
    facts, waited = mesh_job(late={1: ("forward", 12.0)})
    facts = [replace(rank, host=f"host{rank.rank // 2}", boot_id=f"host{rank.rank // 2}") for rank in facts]
    found = merge(facts)
    assert found is not None and not found.clocks.aligned and found.late is None
    assert "clocks" in found.withheld["late rank"] and found.waiting_ms == pytest.approx(waited.mean(), rel=0.1)
