"""Which rank the others wait for, how much of communication is waiting, and what makes the rank late.

In:  matched steps of ranks.
Out: `Waiting`: transfer and waiting parted; `LateRank` where most of the waiting is due to one.

In a collective that ends for nobody before the last rank has come, the rank that comes last waits least: what it is
blocked for is the transfer, and what the others are blocked for beyond that is their wait for it. Only durations are
compared, so that clocks don't matter. Within a phase of a step the collectives are taken together; where ranks take
turns in being late within one phase, a part of the waiting is counted as transfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from profiler.analysis.rank_facts import AlsoLate, Cause, LateRank, RankFacts, RankLine
from profiler.analysis.ranks.matched import Floats, Ints, Matched
from profiler.record.vocabulary import GPU_SLOWDOWN, STAGE_ORDER

_OWN_STAGES = tuple(name for name in STAGE_ORDER if name != "communication")
_COMPUTE = ("forward", "backward", "optimizer")
ONE_RANK_SHARE = 0.7  # of all waiting, due to one rank, from which it is called late
_UNIFORM = 0.12  # spread of the factors by which stages are slower that still counts as one factor
_SLOWER = 1.1  # a factor below this is no slower computing
_CAUSE_SHARE = 0.1  # causes smaller than this part of the lateness are left out
_STEADY_SHARE = 0.2  # of what is waited in a step: who comes so much later than the typical rank is late, too
_STEADY_DEVIATIONS = 4.0  # robust ones of the ranks' means, and standard errors of its own mean
_FEW = 3  # late ranks are at most one in so many
_MOST_NAMED = 32


@dataclass(frozen=True, slots=True)
class Waiting:
    """Blocked time in collectives that end together, parted. Means per compared step, ms."""

    transfer_ms: float
    by_rank_ms: tuple[float, ...]  # waiting of each rank
    late: tuple[float, ...]  # waiting of a typical other rank that is due to each rank
    share_of_steps: tuple[float, ...]  # in which each rank came last
    excess: Floats  # waiting by rank and step
    last: Ints  # the row of the rank that came last, by step
    loss: Floats  # what a typical other rank waited for it, by step

    @property
    def mean_ms(self) -> float:
        """Mean over ranks."""
        return float(np.mean(self.by_rank_ms))


def waiting(matched: Matched) -> Waiting | None:
    """Part transfer from waiting; None where no collective ends together."""
    if not matched.phases or len(matched.ranks) < 2:
        return None
    excess = np.zeros(matched.start_ns.shape)
    transfer = np.zeros(len(matched.index))
    for phase in matched.phases:
        blocked = matched.column(f"comm_{phase}")
        least = blocked.min(axis=0)
        transfer += least
        excess += blocked - least
    last = np.argmin(excess, axis=0)
    others = excess.copy()
    others[last, np.arange(len(last))] = np.nan
    loss = np.nanmedian(others, axis=0) - excess.min(axis=0)
    count = len(matched.ranks)
    due = np.bincount(last, weights=loss, minlength=count) / len(last)
    often = np.bincount(last, minlength=count) / len(last)
    return Waiting(
        transfer_ms=float(transfer.mean()),
        by_rank_ms=tuple(excess.mean(axis=1).tolist()),
        late=tuple(due.tolist()),
        share_of_steps=tuple(often.tolist()),
        excess=excess,
        last=last,
        loss=loss,
    )


def late_rank(ranks: Sequence[RankFacts], matched: Matched, wait: Waiting, arrival: Floats | None) -> LateRank | str:
    """The rank, the host or the few ranks to which most of the waiting is due; why they can't be named where not.

    `arrival` is when the ranks came, on one clock, and has to agree; None: clocks that could not be compared.
    """
    whole = sum(wait.late)
    steady = _steadily_late(wait)
    rows, host = _late_rows(ranks, wait, steady)
    if not rows:
        return "the ranks take turns in being late"
    if arrival is None:
        return "the ranks' clocks could not be brought together"
    if not _came_last(wait, arrival, rows):
        return "the rank that waits least is not the one that comes last"
    late_ms = sum(wait.late[row] for row in rows)
    row = max(rows, key=lambda each: wait.late[each])
    first_rows = rows if host else [row]
    also = [each for each in steady if each not in first_rows]
    named = {*rows, *also}
    others = [each for each in range(len(ranks)) if each not in named]
    means = {name: matched.column(name).mean(axis=1) for name in (*_OWN_STAGES, "gap", "gc")}
    causes = _causes(means, row, others, late_ms)
    first = causes[0].what if causes else ""
    span = _span(ranks, row, others) if first == "gap" else None
    return LateRank(
        rank=matched.ranks[row],
        late_ms=late_ms,
        share_of_steps=sum(wait.share_of_steps[each] for each in rows),
        share_of_waiting=late_ms / whole,
        causes=causes,
        line=_line(ranks, row, others, first),
        span=span,
        span_site=ranks[row].span_sites.get(span) if span else None,
        uniformly_slower=_uniformly_slower(matched, row, others),
        items_ratio=_ratio([rank.items for rank in ranks], row, others),
        worker_part=_worker_part(ranks, row, others) if first == "data_wait" else None,
        host=host,
        host_ranks=len(rows) if host else 1,
        also=tuple(_also(matched, wait, means, each, others) for each in also[:_MOST_NAMED]),
        also_count=len(also),
        alone_ms=_saved(wait, first_rows),
        saves_ms=_saved(wait, sorted(named)),
        without_core=ranks[row].without_core,
        others_without_core=_middle(ranks[each].without_core for each in others),
        throttled=_slowed(ranks[row]) is True and all(_slowed(ranks[each]) is False for each in others),
        cause_steps=_often(matched, first, row, others) if first else None,
    )


def _late_rows(ranks: Sequence[RankFacts], wait: Waiting, steady: Sequence[int]) -> tuple[list[int], str | None]:
    """The rank to which most waiting is due; else all ranks of such a host, and its name; else the steadily late."""
    whole = sum(wait.late)
    if whole <= 0:
        return [], None
    row = int(np.argmax(wait.late))
    if wait.late[row] >= ONE_RANK_SHARE * whole:
        return [row], None
    by_host: dict[str, list[int]] = {}
    for each, rank in enumerate(ranks):
        by_host.setdefault(rank.host, []).append(each)
    rows = max(by_host.values(), key=lambda held: sum(wait.late[each] for each in held))
    if len(by_host) > 1 and sum(wait.late[each] for each in rows) >= ONE_RANK_SHARE * whole:
        return rows, ranks[rows[0]].host
    if sum(wait.late[each] for each in steady) >= ONE_RANK_SHARE * whole:
        return list(steady), None
    return [], None


def _steadily_late(wait: Waiting) -> list[int]:
    """Ranks that come later than the typical one, step for step, latest first; none where they are not few."""
    later = np.median(wait.excess, axis=0) - wait.excess
    mean = later.mean(axis=1)
    error = later.std(axis=1) / np.sqrt(later.shape[1])
    spread = 1.4826 * float(np.median(np.abs(mean - np.median(mean))))
    least = max(_STEADY_DEVIATIONS * spread, _STEADY_SHARE * float(wait.loss.mean()))
    rows = np.flatnonzero((mean > least) & (mean > _STEADY_DEVIATIONS * error))
    if len(rows) > len(mean) // _FEW:
        return []
    return [int(row) for row in rows[np.argsort(-mean[rows], kind="stable")]]


def _saved(wait: Waiting, rows: Sequence[int]) -> float:
    """By how much the last rank would come earlier without these, per step."""
    rest = np.delete(wait.excess, rows, axis=0)
    return float((rest.min(axis=0) - wait.excess.min(axis=0)).mean()) if len(rest) else 0.0


def _often(matched: Matched, name: str, row: int, others: Sequence[int]) -> float:
    """In which share of the steps something takes a rank longer than the others, by half of what it does on average."""
    values = matched.column(name)
    longer = values[row] - np.median(values[others], axis=0)
    return float((longer > longer.mean() / 2).mean())


def _also(matched: Matched, wait: Waiting, means: Mapping[str, Floats], row: int, others: Sequence[int]) -> AlsoLate:
    late_ms = float((np.median(wait.excess, axis=0) - wait.excess[row]).mean())
    causes = _causes(means, row, others, late_ms)
    return AlsoLate(matched.ranks[row], late_ms, causes[0] if causes else None)


def _came_last(wait: Waiting, arrival: Floats, rows: Sequence[int]) -> bool:
    """Whether one of them really arrived last in most of the steps that they are blamed for, by what those cost."""
    mine = np.isin(wait.last, rows)
    weight = np.maximum(wait.loss[mine], 0)
    really = np.isin(np.argmax(arrival[:, mine], axis=0), rows)
    return bool(weight[really].sum() >= 0.5 * weight.sum())


def _causes(means: Mapping[str, Floats], row: int, others: Sequence[int], late_ms: float) -> tuple[Cause, ...]:
    """What the rank does longer than the typical other one, longest first."""

    def cause(name: str) -> Cause:
        mine, typical = float(means[name][row]), float(np.median(means[name][others]))
        return Cause(name, mine - typical, mine, typical)

    found = [each for each in map(cause, (*_OWN_STAGES, "gap")) if each.ms >= _CAUSE_SHARE * late_ms]
    found.sort(key=lambda each: -each.ms)
    collected = cause("gc")
    return (collected, *found) if found and collected.ms >= 0.5 * found[0].ms else tuple(found)


def turns(matched: Matched, wait: Waiting) -> tuple[Cause, ...]:
    """What whichever rank comes last does longer than a typical other one in that step, longest first."""
    steps = np.arange(len(matched.index))
    found = []
    for name in (*_OWN_STAGES, "gap"):
        values = matched.column(name)
        mine = values[wait.last, steps]
        others = values.copy()
        others[wait.last, steps] = np.nan
        typical = np.nanmedian(others, axis=0)
        more = float((mine - typical).mean())
        if more >= _CAUSE_SHARE * float(wait.loss.mean()):
            found.append(Cause(name, more, float(mine.mean()), float(typical.mean())))
    return tuple(sorted(found, key=lambda cause: -cause.ms))


def _line(ranks: Sequence[RankFacts], row: int, others: Sequence[int], stage: str) -> RankLine | None:
    """The user's line in that stage on which the rank spends most more than the others do."""
    mine = ranks[row].stages.get(stage)
    if mine is None or not mine.lines:
        return None
    best: tuple[float, RankLine] | None = None
    for line in mine.lines:
        elsewhere = []
        for other in others:
            held = ranks[other].stages.get(stage)
            same = [each.ms for each in (held.lines if held else ()) if each.site == line.site]
            elsewhere.append(sum(same))
        more = line.ms - float(np.median(elsewhere))
        if more > 0 and (best is None or more > best[0]):
            best = (more, line)
    return best[1] if best else None


def _span(ranks: Sequence[RankFacts], row: int, others: Sequence[int]) -> str | None:
    """What the rank does outside of steps that the others do not."""
    more = {}
    for name, total in ranks[row].spans_s.items():
        more[name] = total - float(np.median([ranks[other].spans_s.get(name, 0.0) for other in others]))
    name = max(more, key=lambda each: more[each], default="")
    return name if more.get(name, 0.0) > 0 else None


def _uniformly_slower(matched: Matched, row: int, others: Sequence[int]) -> float | None:
    """By how much all computing is slower, where it is about one factor: a slow device, or a busy core."""
    factors = []
    for name in _COMPUTE:
        means = matched.column(name).mean(axis=1)
        typical = float(np.median(means[others]))
        if typical > 0.02 * float(matched.wall().mean()):
            factors.append(float(means[row]) / typical)
    if len(factors) < 2 or min(factors) < _SLOWER or max(factors) - min(factors) > _UNIFORM * max(factors):
        return None
    return float(np.mean(factors))


def _ratio(values: Sequence[float | None], row: int, others: Sequence[int]) -> float | None:
    known = [value for value in (values[other] for other in others) if value]
    mine = values[row]
    return mine / float(np.median(known)) if mine and known else None


def _middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _slowed(rank: RankFacts) -> bool | None:
    """Whether its device was ever slowed down for heat or power; None where that was not read."""
    return None if rank.throttle_reasons is None else bool(rank.throttle_reasons & GPU_SLOWDOWN)


def _worker_part(ranks: Sequence[RankFacts], row: int, others: Sequence[int]) -> str | None:
    """Which part of making a batch takes it most longer than the others."""
    more = {}
    for part in ("load", "preprocess", "collate"):
        values = [getattr(rank, f"{part}_ms") for rank in ranks]
        if any(value is None for value in values):
            return None
        more[part] = values[row] - float(np.median([values[other] for other in others]))
    part = max(more, key=lambda each: more[each])
    return part if more[part] > 0 else None
