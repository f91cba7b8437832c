"""The job, from the facts of its ranks alone.

In:  `RankFacts` of those ranks that left any.
Out: `RanksFacts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from profiler.analysis.rank_facts import (
    Clocks,
    CollectiveRow,
    Exchange,
    FlightRecord,
    Hang,
    LateRank,
    RankFacts,
    RankRow,
    RanksFacts,
    Reduction,
)
from profiler.analysis.ranks import clocks, flight, grouped, lateness, link, slow_links
from profiler.analysis.ranks.calls import transfers
from profiler.analysis.ranks.matched import Matched, match
from profiler.record.vocabulary import ENDING_TOGETHER

_HANG_S = 1.0
_HANG_STEPS = 5  # a collective that held for so many steps
_TIE_SHARE = 0.03  # of a step: ranks that differ less are equally typical
_MOST_ROWS = 40
_BANDWIDTH_BYTES = 64 << 10  # smaller messages are all latency


def merge(
    ranks: Sequence[RankFacts],
    dumps: Mapping[int, FlightRecord] | None = None,
    unreadable: Sequence[int] = (),
) -> RanksFacts | None:
    """Lay the ranks side by side; None where there are none.

    `dumps` are used before those that ranks found. Of those `unreadable` the caller says why.
    """
    if not ranks:
        return None
    ranks = sorted(ranks, key=lambda rank: rank.rank)
    world_size = max(max(rank.world_size for rank in ranks), ranks[-1].rank + 1)
    judged = [rank for rank in ranks if rank.measured and not rank.lost_steps and rank.disabled is None]
    matched = match(judged) if len(judged) > 1 else None
    aligned, offsets = clocks.align(judged, matched)
    withheld: dict[str, str] = {}
    parted, wait = _waiting(judged, matched, withheld)
    late = _late(judged, matched, wait, aligned, offsets, withheld)
    timed = [rank for rank in judged if rank.device_times or not rank.asynchronous]
    exposed = _mean([_stage_ms(rank, "communication") for rank in timed])
    if len(timed) < len(judged):
        withheld["exposed communication"] = (
            "the device runs behind the host, whose clock tells when it waits, not for what"
        )
    modelled = link.links(judged)
    if isinstance(modelled, str):
        withheld["link"] = modelled
    waited = dict(zip((rank.rank for rank in judged), parted.by_rank_ms, strict=True)) if parted else {}
    compared = slow_links.slow_links(judged)
    if isinstance(compared, str):
        withheld["slow link"] = compared
    records = {**{rank.rank: rank.flight for rank in ranks if rank.flight is not None}, **(dumps or {})}
    rows = tuple(_row(rank, waited.get(rank.rank)) for rank in ranks)
    return RanksFacts(
        world_size=world_size,
        hosts=len({rank.host for rank in ranks}),
        recorded=tuple(rank.rank for rank in ranks),
        missing=tuple(sorted(set(range(world_size)) - {rank.rank for rank in ranks})),
        typical=_typical(judged or list(ranks), late),
        slowest=_slowest(judged),
        compared_steps=len(matched.index) if matched else 0,
        step_ms=_mean([rank.step_mean_ms for rank in judged]),
        exposed_ms=exposed,
        network_ms=parted.transfer_ms if parted else None,
        waiting_ms=parted.mean_ms if parted else None,
        hidden_ms=_mean([rank.reduction.hidden_ms if rank.reduction else None for rank in judged]),
        phases_ms=_phases([rank for rank in judged if not rank.asynchronous]),
        rows=rows,
        late=late,
        turns_ms=_turns(wait, late),
        turns=lateness.turns(matched, wait) if matched and wait and late is None else (),
        collectives=_collectives(judged),
        reduction=_reduction(judged, late),
        backend=next((rank.backend for rank in ranks if rank.backend), ""),
        clocks=aligned,
        hang=_both(ranks, _hang(ranks), records, world_size),
        withheld=withheld,
        notices=_notices(ranks, world_size, judged, unreadable),
        links=() if isinstance(modelled, str) else modelled,
        mismatch=flight.mismatch_of(records),
        dumped=tuple(sorted(records)),
        slow_links=() if isinstance(compared, str) else compared,
        kinds_ms=_kinds(timed),
    )


def _waiting(
    judged: Sequence[RankFacts], matched: Matched | None, withheld: dict[str, str]
) -> tuple[lateness.Waiting | grouped.Parted | None, lateness.Waiting | None]:
    """Transfer and waiting; and step by step, where that tells who is late.

    Where all ranks meet in each collective, the steps tell both. Where they meet in smaller groups, single calls part
    the time, and the steps may say who is late if they come to the same.
    """
    if len(judged) < 2:
        withheld["waiting"] = "fewer than two ranks left steps that can be compared"
        return None, None
    if matched is None:
        withheld["waiting"] = "the ranks have too few steps in common"
        return None, None
    if any(rank.asynchronous for rank in judged):
        withheld["waiting"] = "the device runs behind the host: a collective returns before it has run"
        return None, None
    wait = lateness.waiting(matched)
    if wait is None:
        withheld["waiting"] = "no collective that ends for all ranks together was seen in the steps"
    if wait is None or not any(map(grouped.in_small_groups, judged)):
        return wait, wait
    parted = grouped.part(judged)
    if isinstance(parted, str):
        withheld["waiting"] = parted
        return None, None
    why = grouped.contradiction(judged, parted, wait.by_rank_ms)
    if why is not None:
        withheld["late rank"] = why
    return parted, wait if why is None else None


def _late(
    judged: Sequence[RankFacts],
    matched: Matched | None,
    wait: lateness.Waiting | None,
    aligned: Clocks,
    offsets: dict[str, clocks.Offset],
    withheld: dict[str, str],
) -> LateRank | None:
    if wait is None or matched is None:
        return None
    phases = matched.phases
    if not any(map(grouped.in_small_groups, judged)):
        phases = [max(phases, key=lambda name: float(matched.column(f"comm_{name}").sum()))]
    arrival = clocks.arrivals(judged, matched, offsets, phases) if aligned.aligned else None
    found = lateness.late_rank(judged, matched, wait, arrival)
    if isinstance(found, str):
        withheld["late rank"] = found
        return None
    if aligned.error_ms > found.late_ms / 2:
        withheld["late rank"] = "the error of the hosts' clocks is as large as what the ranks wait for each other"
        return None
    return found


def _turns(wait: lateness.Waiting | None, late: LateRank | None) -> float | None:
    """What a typical rank waits where no single rank is to blame."""
    if wait is None:
        return None
    return sum(wait.late) - (late.late_ms if late else 0.0)


def _row(rank: RankFacts, waiting_ms: float | None) -> RankRow:
    return RankRow(
        rank=rank.rank,
        host=rank.host,
        state=_state(rank),
        steps=rank.steps,
        step_ms=rank.step_mean_ms,
        stages_ms={name: stage.mean_ms for name, stage in rank.stages.items()},
        waiting_ms=waiting_ms,
    )


def _state(rank: RankFacts) -> str:
    if rank.disabled is not None:
        return "recording stopped by an error of its own"
    if not rank.steps:
        return "no step was seen"
    if rank.lost_steps:
        return "part of its record was dropped"
    return "ok" if rank.ended else "ended without an orderly end"


def _stage_ms(rank: RankFacts, stage: str) -> float | None:
    found = rank.stages.get(stage)
    return found.mean_ms if found else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _work(rank: RankFacts) -> float:
    """What a rank does itself per step."""
    return (rank.step_mean_ms or 0.0) - (_stage_ms(rank, "communication") or 0.0)


def _typical(ranks: Sequence[RankFacts], late: LateRank | None) -> int:
    """The rank nearest to the median of all stages; the lowest number where several are.

    One whose record was torn off is taken only where all were.
    """
    names = sorted({name for rank in ranks for name in rank.stages})
    if not names:
        return ranks[0].rank
    table = np.array([[_stage_ms(rank, name) or 0.0 for name in names] for rank in ranks])
    distance = np.abs(table - np.median(table, axis=0)).sum(axis=1)
    if late is not None:
        named = {late.rank, *(each.rank for each in late.also)}
        distance[[rank.rank in named for rank in ranks]] = np.inf
    whole = [rank.ended for rank in ranks]
    if np.isfinite(distance[whole]).any():
        distance[np.logical_not(whole)] = np.inf
    slack = _TIE_SHARE * float(table.sum(axis=1).mean())
    return ranks[int(np.flatnonzero(distance <= distance.min() + slack)[0])].rank


def _slowest(judged: Sequence[RankFacts]) -> int | None:
    """The rank with most work of its own, where the difference is more than noise."""
    if len(judged) < 2:
        return None
    work = np.array([_work(rank) for rank in judged])
    row = int(np.argmax(work))
    more = float(work[row] - np.median(np.delete(work, row)))
    noise = max(_TIE_SHARE * (judged[row].step_mean_ms or 0.0), judged[row].step_noise_ms)
    return judged[row].rank if more > noise else None


def _kinds(timed: Sequence[RankFacts]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for rank in timed for kind in rank.blocked_ms)
    return {kind: min(rank.blocked_ms.get(kind, 0.0) for rank in timed) for kind in kinds}


def _phases(judged: Sequence[RankFacts]) -> dict[str, float]:
    names = dict.fromkeys(name for rank in judged for name in rank.phases_ms)
    return {name: float(np.mean([rank.phases_ms.get(name, 0.0) for rank in judged])) for name in names}


def _collectives(judged: Sequence[RankFacts]) -> tuple[CollectiveRow, ...]:
    """Messages of one kind and size over all ranks, with the time of the rank that waits least for them."""
    by_key: dict[tuple[str, str, str | None, int], dict[int, list[Exchange]]] = {}
    for rank in judged:
        for exchange in rank.exchanges:
            key = (exchange.kind, exchange.group, exchange.dtype, int(exchange.bytes).bit_length())
            by_key.setdefault(key, {}).setdefault(rank.rank, []).append(exchange)
    rows = [_collective(found, len(judged)) for found in by_key.values()] + _reductions(judged)
    rows.sort(key=lambda row: -row.calls * (row.ms or 0.0))
    return tuple(rows[:_MOST_ROWS])


def _collective(by_rank: Mapping[int, Sequence[Exchange]], ranks: int) -> CollectiveRow:
    found = [exchange for each in by_rank.values() for exchange in each]
    one_each = len(found) == len(by_rank) == ranks
    size = float(np.mean([exchange.bytes for exchange in found]))
    times = [exchange.blocked_ms for exchange in found if exchange.blocked_ms is not None]
    shortest = [exchange.shortest_ms for exchange in found if exchange.shortest_ms is not None]
    ms = min(times) if times and not found[0].asynchronous else None
    single = transfers(found) if ms is not None and found[0].kind in ENDING_TOGETHER and one_each else None
    if single is not None and ms is not None:
        ms = min(ms, float(single.mean()))
    return CollectiveRow(
        kind=found[0].kind,
        group=found[0].group,
        group_size=found[0].group_size,
        backend=found[0].backend,
        dtype=found[0].dtype,
        calls=sum(exchange.calls for exchange in found) / len(by_rank),  # those to several peers add up
        bytes=size,
        ms=ms,
        shortest_ms=min(shortest) if shortest else None,
        gigabytes_per_s=size / ms / 1e6 if ms and size >= _BANDWIDTH_BYTES else None,
    )


def _reductions(judged: Sequence[RankFacts]) -> list[CollectiveRow]:
    """DDP's buckets: their time is the reducer's own, of the rank for which it was shortest."""
    reductions = [rank.reduction for rank in judged if rank.reduction is not None]
    if not reductions:
        return []
    one = reductions[0]
    times = [each.total_ms for each in reductions if each.total_ms]
    buckets = max(len(one.bucket_bytes), 1)
    per_step = float(np.mean([rank.calls.get("gradients (DDP)", 0.0) for rank in judged]))
    ms = min(times) if times else None
    return [
        CollectiveRow(
            kind="gradients (DDP)",
            group="default",
            group_size=judged[0].world_size,
            backend=judged[0].backend,
            dtype="float32" if one.dtypes == "float" else one.dtypes or None,
            calls=per_step * buckets,
            bytes=one.parameter_bytes / buckets,
            ms=ms / buckets if ms else None,
            shortest_ms=None,
            gigabytes_per_s=one.parameter_bytes / ms / 1e6 if ms else None,
        )
    ]


def _reduction(judged: Sequence[RankFacts], late: LateRank | None) -> Reduction | None:
    """The reducer of the rank that waits least: its times hold no waiting."""
    found = [rank for rank in judged if rank.reduction is not None]
    if not found:
        return None
    chosen = next((rank for rank in found if late is not None and rank.rank == late.rank), None)
    return (chosen or min(found, key=lambda rank: rank.reduction.total_ms or 0.0 if rank.reduction else 0.0)).reduction


def _hang(ranks: Sequence[RankFacts]) -> Hang | None:
    """Whether the record ended in a collective that some ranks were in for long, or that failed under them."""
    seen = [rank for rank in ranks if rank.last is not None]
    if not seen:
        return None
    longest = max(rank.last.for_s for rank in seen if rank.last)
    inside = [rank for rank in seen if rank.last and rank.last.communicating]
    if not inside:
        return None
    held_s = max(rank.last.for_s for rank in inside if rank.last)
    step_s = max((rank.step_median_ms or 0.0) for rank in ranks) / 1e3
    failed = any(rank.last and rank.last.raised for rank in inside)
    if not failed and held_s < max(_HANG_S, _HANG_STEPS * step_s):
        return None
    held = [rank for rank in inside if rank.last and (rank.last.raised or rank.last.for_s >= 0.2 * held_s)]
    first = max(held, key=lambda rank: rank.last.for_s if rank.last else 0.0)
    assert first.last is not None
    numbers = {rank.rank for rank in held if rank.last and rank.last.doing == first.last.doing}
    return Hang(
        collective=first.last.doing,
        arrived=tuple(sorted(numbers)),
        absent=tuple(rank.rank for rank in ranks if rank.rank not in numbers),
        for_s=max(held_s, longest if failed else 0.0),
        sites={str(rank.rank): rank.last.site for rank in seen if rank.last and rank.last.site},
        doing={str(rank.rank): (rank.last.doing or "other") if rank.last else "had ended" for rank in ranks},
    )


def _both(
    ranks: Sequence[RankFacts], live: Hang | None, records: Mapping[int, FlightRecord], world_size: int
) -> Hang | None:
    """What our own record and the flight recorder say together.

    The recorder knows groups, numbers and what runs on a device; our record knows where a rank stood that did not come.
    """
    told = flight.hang_of(records, world_size)
    if told is None or all(rank.ended and rank.last is None for rank in ranks):
        return live
    sites, doing = dict(told.sites), dict(told.doing)
    for rank in ranks:
        number = str(rank.rank)
        if rank.last is not None and rank.rank not in told.arrived:
            doing[number] = rank.last.doing or "other"
            if rank.last.site is not None:
                sites[number] = rank.last.site
    seen = {rank.rank for rank in ranks if rank.last is not None}
    return replace(
        told,
        sites=sites,
        doing=doing,
        for_s=max(told.for_s, live.for_s if live else 0.0),
        absent=tuple(sorted({*told.absent, *(seen.intersection(told.unknown) & set(live.absent if live else ()))})),
        unknown=tuple(rank for rank in told.unknown if live is None or rank not in live.absent or rank not in seen),
    )


def _notices(
    ranks: Sequence[RankFacts], world_size: int, judged: Sequence[RankFacts], unreadable: Sequence[int]
) -> tuple[str, ...]:
    """What a reader of the job must know, most important first."""
    found = []
    absent = sorted(set(range(world_size)) - {rank.rank for rank in ranks} - set(unreadable))
    if absent:
        found.append(f"{listed(absent)} left no record: the job is judged by the other {len(ranks)} of {world_size}")
    for what in ("recording stopped by an error of its own", "no step was seen", "part of its record was dropped"):
        which = [rank.rank for rank in ranks if _state(rank) == what]
        if which:
            found.append(f"{listed(which)}: {what}, so that it is not compared with the others")
    torn = [rank.rank for rank in ranks if not rank.ended and rank.steps]
    if torn and len(torn) < len(ranks):
        found.append(f"{listed(torn)} ended without an orderly end, the others in an orderly way")
    steps = sorted({rank.steps for rank in judged})
    if steps and steps[-1] - steps[0] > max(2, 0.02 * steps[-1]):
        found.append(
            f"between {steps[0]:,} and {steps[-1]:,} steps of the ranks were recorded: those they share are compared"
        )
    versions = {rank.torch for rank in ranks}
    if len(versions) > 1:
        found.append(f"the ranks ran different versions of torch: {', '.join(sorted(map(str, versions)))}")
    return tuple(found)


def listed(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 1, 4 and 6`, `ranks 0, 1, 2 and 61 others`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = [str(rank) for rank in (ranks if len(ranks) <= 6 else ranks[:3])]
    last = shown.pop() if len(ranks) <= 6 else f"{len(ranks) - 3} others"
    return f"ranks {', '.join(shown)} and {last}"
