"""Slow groups and pairs of ranks: planted ones are found with what they have in common, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from generated import job

from profiler.analysis.rank_facts import Exchange, RankFacts
from profiler.analysis.ranks.merge import merge
from profiler.analysis.ranks.slow_links import slow_links

KEPT = 48
Ranks = tuple[int, ...]


def exchanged(
    ranks: int,
    groups: Iterable[Ranks],
    slower: Mapping[Ranks, float] | None = None,
    *,
    pairs: bool = False,
    ms: float = 4.0,
    noise: float = 0.1,
    seed: int = 0,
    **changes: Any,
) -> list[RankFacts]:
    """Ranks whose groups all-reduce, or whose pairs send and receive, and wait for each other at random."""
    random = np.random.default_rng(seed)
    kept: dict[int, list[Exchange]] = {rank: [] for rank in range(ranks)}
    for group in groups:
        true = ms * (slower or {}).get(group, 1.0) * (1 + noise * np.abs(random.standard_normal(KEPT)))
        waits = random.random((len(group), KEPT)) * 20.0
        waits -= waits.min(axis=0)
        for place, rank in enumerate(group):
            blocked = true + waits[place]
            kind = ("send", "recv")[place] if pairs else "all_reduce"
            made = Exchange(
                kind={"recv": "receive"}.get(kind, kind),
                group="default" if pairs else "tensor_parallel",
                group_size=ranks if pairs else len(group),
                backend="gloo",
                dtype="float32",
                calls=2.0,
                bytes=4e6,
                blocked_ms=float(blocked.mean()),
                shortest_ms=float(blocked.min()),
                asynchronous=False,
                every=2,
                times=blocked.astype("<f4").tobytes(),
                members=() if pairs else group,
                peer=group[1 - place] if pairs else None,
            )
            kept[rank].append(replace(made, **changes))
    hosts = [f"host-{rank // 2}" for rank in range(ranks)]
    return [replace(rank, exchanges=tuple(kept[rank.rank])) for rank in job(ranks, hosts=hosts)]


BY_HOST = [(0, 1), (2, 3), (4, 5), (6, 7)]
RING = [(rank, (rank + 1) % 8) for rank in range(8)]


def test_a_slow_group_is_named_with_its_host() -> None:
    (slow,) = slow_links(exchanged(8, BY_HOST, {(4, 5): 2.5}))
    assert not isinstance(slow, str)
    assert (slow.ranks, slow.host, slow.rank, slow.others, slow.pair) == ((4, 5), "host-2", None, 3, False)
    assert slow.ms / slow.typical_ms == pytest.approx(2.5, rel=0.1)
    assert slow.excess_ms == pytest.approx(2 * 1.5 * 4.0, rel=0.25)  # 20 ms of waiting are not in it


def test_a_slow_pair_is_named_in_a_ring_of_messages() -> None:
    (slow,) = slow_links(exchanged(8, RING, {(3, 4): 3.0}, pairs=True))
    assert not isinstance(slow, str)
    assert (slow.ranks, slow.pair, slow.others, slow.host) == ((3, 4), True, 7, None)
    assert slow.ms == pytest.approx(12.0, rel=0.15)


def test_a_rank_is_named_where_all_messages_to_and_from_it_are_slow() -> None:
    found = slow_links(exchanged(8, RING, {(2, 3): 2.5, (3, 4): 2.5}, pairs=True))
    assert not isinstance(found, str) and len(found) == 2
    assert {link.rank for link in found} == {3}


def test_a_host_is_named_where_groups_that_reach_it_are_slow() -> None:
    across = [(0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5)]
    found = slow_links(exchanged(8, across, {(4, 6): 2.0, (5, 7): 2.0}))
    assert not isinstance(found, str) and {link.host for link in found} == {"host-3"}


@pytest.mark.parametrize("noise", [0.05, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_even_groups_and_pairs_are_not_slow(noise: float, seed: int) -> None:
    assert slow_links(exchanged(8, BY_HOST, noise=noise, seed=seed)) == ()
    assert slow_links(exchanged(8, RING, pairs=True, noise=noise, seed=seed)) == ()


def test_a_difference_within_the_spread_of_the_calls_is_none() -> None:
    assert slow_links(exchanged(4, BY_HOST[:2], {(2, 3): 1.3})) == ()


def test_what_can_not_be_compared_is_said_and_collectives_of_all_ranks_say_nothing() -> None:
    assert slow_links(job(8)) == ()
    alone = slow_links(exchanged(8, BY_HOST[:1]))
    assert isinstance(alone, str) and "no two groups" in alone
    for changes in ({"every": 0, "times": b""}, {"times": b"\0" * 16}):
        assert isinstance(slow_links(exchanged(8, BY_HOST, {(4, 5): 2.5}, **changes)), str)
    behind = [replace(rank, asynchronous=True) for rank in exchanged(8, BY_HOST, {(4, 5): 2.5})]
    assert "device" in slow_links(behind)
    half = exchanged(8, RING, {(3, 4): 3.0}, pairs=True)
    half[4] = replace(half[4], exchanges=())  # who was sent to left nothing
    assert slow_links(half) == ()


def test_the_job_holds_its_slow_links() -> None:
    found = merge(exchanged(8, BY_HOST, {(4, 5): 2.5}))
    assert found is not None and found.slow_links[0].host == "host-2"
    lone = merge(exchanged(8, BY_HOST[:1]))
    assert lone is not None and "slow link" in lone.withheld
