"""The model of the link: planted latencies and rates are found within the error that is stated, or nothing is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from generated import job

from profiler.analysis.rank_facts import Exchange, LinkModel, RankFacts, wire_factor
from profiler.analysis.ranks.link import links
from profiler.analysis.ranks.merge import merge

SIZES = tuple(4.0 * 4**power for power in range(2, 12))  # 64 B to 64 MiB
Planted = tuple[list[RankFacts], float]


def planted(
    latency_ms: float,
    gigabytes_per_s: float,
    *,
    kind: str = "all_reduce",
    ranks: int = 4,
    sizes: tuple[float, ...] = SIZES,
    noise: float = 0.1,
    one_sided: bool = True,
    wait_ms: float = 5.0,
    seed: int = 0,
) -> Planted:
    """Ranks that exchange each size once a step, wait for each other at random, and the transfer of a step."""
    random = np.random.default_rng(seed)
    steps, transfer_ms = 200, 0.0
    kept: list[list[Exchange]] = [[] for _ in range(ranks)]
    for size in sizes:
        true = latency_ms + size * wire_factor(kind, ranks) / gigabytes_per_s / 1e6
        draw = random.standard_normal(steps) * noise
        times = true * np.maximum(1 + (np.abs(draw) if one_sided else draw), 0.3)
        waits = random.random((ranks, steps)) * wait_ms
        waits -= waits.min(axis=0)  # somebody comes last
        transfer_ms += float(times.mean())
        for rank in range(ranks):
            blocked = times + waits[rank]
            kept[rank].append(
                Exchange(
                    kind, "default", ranks, "gloo", "float32", 1.0, size, blocked.mean(), float(blocked.min()), False
                )
            )
    made = job(ranks, steps, calls={kind: float(len(sizes))})
    return [replace(rank, exchanges=tuple(mine)) for rank, mine in zip(made, kept, strict=True)], transfer_ms


def only(found: tuple[LinkModel, ...] | str) -> LinkModel:
    assert not isinstance(found, str), found
    return found[0]


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("one_sided", [True, False], ids=["longer", "both"])
@pytest.mark.parametrize("noise", [0.02, 0.1])
@pytest.mark.parametrize("rate", [0.1, 2.0, 25.0])
@pytest.mark.parametrize("latency", [0.02, 0.5])
def test_planted_latency_and_rate_lie_within_the_stated_error(
    latency: float, rate: float, noise: float, one_sided: bool, kind: str
) -> None:
    missed = 0
    average = 1 + noise * np.sqrt(2 / np.pi) if one_sided else 1.0  # what noise adds to a transfer
    for seed in range(10):
        model = only(links(*planted(latency, rate, kind=kind, noise=noise, one_sided=one_sided, seed=seed)))
        missed += abs(model.latency_ms - latency * average) > model.latency_error_ms
        missed += abs(model.gigabytes_per_s - rate / average) > model.gigabytes_error
        assert model.latency_error_ms < 0.5 * latency and model.gigabytes_error <= 0.5 * model.gigabytes_per_s
    assert missed <= 1  # of twenty


def test_a_message_of_another_size_is_predicted_within_the_stated_error() -> None:
    model = only(links(*planted(0.2, 1.0)))
    for size in (1e3, 1e6, 3e7):
        true = (8 * 0.2 + size * 1.5 / 1e6) * (1 + 0.1 * np.sqrt(2 / np.pi))
        assert model.transfer_ms(8, size) == pytest.approx(true, abs=model.transfer_error_ms(8, size))
        assert model.transfer_error_ms(8, size) < 0.3 * true


def test_one_size_that_is_off_the_line_does_not_bend_it() -> None:
    ranks, transfer = planted(0.1, 1.0, noise=0.02)
    odd = [
        replace(
            rank,
            exchanges=tuple(
                replace(each, shortest_ms=8 * (each.shortest_ms or 0.0)) if number == 5 else each
                for number, each in enumerate(rank.exchanges)
            ),
        )
        for rank in ranks
    ]
    model = only(links(odd, transfer))
    assert model.latency_ms == pytest.approx(0.1, rel=0.2) and model.gigabytes_per_s == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ((4e6,), "one size"),
        ((4e6, 8e6), "one size"),
        ((64.0, 256.0, 1024.0), "do not grow with their size"),  # all latency
        ((), "blocked its caller"),
    ],
)
def test_without_a_span_of_sizes_nothing_is_said(sizes: tuple[float, ...], why: str) -> None:
    found = links(*planted(1.0, 1.0, sizes=sizes))
    assert isinstance(found, str) and why in found


def test_an_unsteady_link_has_no_model() -> None:
    ranks, transfer = planted(0.1, 1.0)
    found = links(ranks, 5 * transfer)
    assert isinstance(found, str) and "unsteady" in found
    assert isinstance(links(ranks, None), str)


def test_calls_of_smaller_groups_and_calls_that_are_not_waited_for_tell_nothing_of_the_link() -> None:
    ranks, transfer = planted(0.1, 1.0)
    for changes in ({"group_size": 2}, {"asynchronous": True}, {"calls": 0.01}):
        changed = [
            replace(rank, exchanges=tuple(replace(each, **changes) for each in rank.exchanges))  # type: ignore[arg-type]
            for rank in ranks
        ]
        assert isinstance(links(changed, transfer), str)


def test_the_job_says_its_link_or_why_not() -> None:
    ranks, transfer = planted(0.1, 1.0)
    found = merge(job(4, transfer_ms=transfer, exchanges=ranks[0].exchanges, calls={"all_reduce": float(len(SIZES))}))
    assert found is not None and found.links[0].gigabytes_per_s == pytest.approx(1.0, rel=0.2)
    silent = merge(job(4))
    assert silent is not None and silent.links == () and "link" in silent.withheld
