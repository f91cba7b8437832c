"""The model of the link: planted latencies and rates are found within the error that is stated, or nothing is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from generated import job

from profiler.analysis.rank_facts import Exchange, LinkModel, RankFacts, wire_factor
from profiler.analysis.ranks.link import links
from profiler.analysis.ranks.merge import merge

KEPT = 64  # times of a rank and size
SIZES = tuple(4.0 * 4**power for power in range(2, 12))  # 64 B to 64 MiB


def planted(
    latency_ms: float,
    gigabytes_per_s: float,
    *,
    kind: str = "all_reduce",
    ranks: int = 4,
    sizes: tuple[float, ...] = SIZES,
    noise: float = 0.1,
    spikes: float = 0.0,  # share of calls that take ten times as long
    wait_ms: float = 5.0,
    seed: int = 0,
) -> list[RankFacts]:
    """Ranks that exchange each size once a step, and take turns in waiting for each other."""
    random = np.random.default_rng(seed)
    kept: list[list[Exchange]] = [[] for _ in range(ranks)]
    for size in sizes:
        true = latency_ms + size * wire_factor(kind, ranks) / gigabytes_per_s / 1e6
        times = true * np.maximum(1 + noise * random.standard_normal(KEPT), 0.3)
        times[random.random(KEPT) < spikes] *= 10
        waits = random.random((ranks, KEPT)) * wait_ms
        waits -= waits.min(axis=0)  # somebody comes last
        for rank in range(ranks):
            blocked = (times + waits[rank]).astype("<f4")
            kept[rank].append(
                Exchange(
                    kind,
                    "default",
                    ranks,
                    "gloo",
                    "float32",
                    calls=1.0,
                    bytes=size,
                    blocked_ms=float(blocked.mean()),
                    shortest_ms=float(blocked.min()),
                    asynchronous=False,
                    every=4,
                    times=blocked.tobytes(),
                )
            )
    made = job(ranks, 4 * KEPT, calls={kind: float(len(sizes))})
    return [replace(rank, exchanges=tuple(mine)) for rank, mine in zip(made, kept, strict=True)]


def only(found: tuple[LinkModel, ...] | str) -> LinkModel:
    assert not isinstance(found, str), found
    return found[0]


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("noise", [0.02, 0.2])
@pytest.mark.parametrize("spikes", [0.0, 0.1])
@pytest.mark.parametrize("rate", [0.1, 2.0, 25.0])
@pytest.mark.parametrize("latency", [0.02, 0.5])
def test_planted_latency_and_rate_lie_within_the_stated_error(
    latency: float, rate: float, spikes: float, noise: float, kind: str
) -> None:
    missed = 0
    for seed in range(10):
        model = only(links(planted(latency, rate, kind=kind, noise=noise, spikes=spikes, seed=seed)))
        missed += abs(model.latency_ms - latency) > model.latency_error_ms
        missed += abs(model.gigabytes_per_s - rate) > model.gigabytes_error
        assert model.latency_error_ms < 0.35 * latency and model.gigabytes_error <= 0.5 * model.gigabytes_per_s
    assert missed <= 2  # of twenty


def test_a_message_of_another_size_is_predicted_within_the_stated_error() -> None:
    model = only(links(planted(0.2, 1.0)))
    for size in (1e3, 1e6, 3e7):
        true = 8 * 0.2 + size * 1.5 / 1e6
        assert model.transfer_ms(8, size) == pytest.approx(true, abs=model.transfer_error_ms(8, size))
        assert model.transfer_error_ms(8, size) < 0.3 * true


def test_one_size_that_is_off_the_line_does_not_bend_it() -> None:
    def slow(each: Exchange) -> Exchange:
        return replace(each, times=(np.frombuffer(each.times, "<f4") * 8).astype("<f4").tobytes())

    odd = [
        replace(rank, exchanges=(*rank.exchanges[:5], slow(rank.exchanges[5]), *rank.exchanges[6:]))
        for rank in planted(0.1, 1.0, noise=0.02, wait_ms=0.0)
    ]
    model = only(links(odd))
    assert model.latency_ms == pytest.approx(0.1, rel=0.2) and model.gigabytes_per_s == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ((4e6,), "one size"),
        ((4e6, 8e6), "one size"),
        ((64.0, 256.0, 1024.0), "do not grow with their size"),  # all latency
        ((), "blocked its callers"),
    ],
)
def test_without_a_span_of_sizes_nothing_is_said(sizes: tuple[float, ...], why: str) -> None:
    found = links(planted(1.0, 1.0, sizes=sizes))
    assert isinstance(found, str) and why in found


def test_calls_of_smaller_groups_and_calls_that_others_did_not_make_tell_nothing_of_the_link() -> None:
    ranks = planted(0.1, 1.0)
    for changes in ({"group_size": 2}, {"every": 0, "times": b""}, {"times": ranks[0].exchanges[0].times[:16]}):
        changed = [
            replace(rank, exchanges=tuple(replace(each, **changes) for each in rank.exchanges))  # type: ignore[arg-type]
            for rank in ranks
        ]
        assert isinstance(links(changed), str)
    assert isinstance(links([*ranks[:3], replace(ranks[3], exchanges=())]), str)


def test_ranks_of_which_one_made_more_calls_are_compared_where_they_kept_the_same() -> None:
    def thinned(each: Exchange) -> Exchange:
        return replace(each, every=8, times=np.frombuffer(each.times, "<f4")[1::2].tobytes())

    ranks = planted(0.1, 1.0)
    ranks[1] = replace(ranks[1], exchanges=tuple(map(thinned, ranks[1].exchanges)))
    assert only(links(ranks)).gigabytes_per_s == pytest.approx(1.0, rel=0.2)


def test_the_job_says_its_link_or_why_not_and_a_transfer_holds_no_waiting() -> None:
    found = merge(planted(0.1, 1.0, wait_ms=50.0))
    assert found is not None and found.links[0].gigabytes_per_s == pytest.approx(1.0, rel=0.2)
    small = min(found.collectives, key=lambda row: row.bytes)
    assert small.ms == pytest.approx(0.1, rel=0.1)  # though each rank was blocked for 25 ms
    silent = merge(job(4))
    assert silent is not None and silent.links == () and "link" in silent.withheld
