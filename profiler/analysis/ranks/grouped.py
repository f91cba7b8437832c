"""Transfer and waiting where collectives run in groups smaller than the job: parted call by call.

In:  `RankFacts` of the compared ranks.
Out: `Parted`, means per step; or why they can't be parted, in a clause.

Of a call that all ranks of a group have kept, the one that it blocked least came last: that long it took, and what it
blocked the others beyond that is their wait. Of the calls of a row some are kept, evenly over the run: they say which
part of the time is waiting, and the steps how much time that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from profiler.analysis.rank_facts import Exchange, RankFacts
from profiler.analysis.ranks.calls import side_by_side
from profiler.record.vocabulary import ENDING_TOGETHER

_COVERED = 0.9  # of each rank's time in collectives, that must lie in calls that can be laid side by side
_SAME_CALLS = 0.02  # by which numbers of calls per step may differ
_SAME_WAITING, _SAME_WAITING_MS = 0.3, 0.3  # of the ranks' mean waiting, by which two ways to tell it may differ
Key = tuple[str, str, str | None, int, tuple[int, ...]]  # kind, group, type, power of two of the bytes, ranks


@dataclass(frozen=True, slots=True)
class Parted:
    """Blocked time in collectives that end together, parted. Means per step, ms."""

    transfer_ms: float
    by_rank_ms: tuple[float, ...]  # waiting of each rank

    @property
    def mean_ms(self) -> float:
        """Mean over ranks."""
        return float(np.mean(self.by_rank_ms))


def in_small_groups(rank: RankFacts) -> bool:
    """Whether a rank meets only some of the others in a collective."""
    return any(each.kind in ENDING_TOGETHER and 1 < each.group_size < rank.world_size for each in rank.exchanges)


def part(ranks: Sequence[RankFacts]) -> Parted | str:
    """Part the ranks' time in collectives."""
    parted_ms, waited_ms = dict.fromkeys(range(len(ranks)), 0.0), dict.fromkeys(range(len(ranks)), 0.0)
    for sides in _meetings(ranks).values():
        rows = sorted(sides)
        kept = side_by_side([sides[row] for row in rows])
        if kept is None:
            continue
        waited = (kept - kept.min(axis=0)).mean(axis=1)
        for row, ms, waiting in zip(rows, kept.mean(axis=1), waited, strict=True):
            parted_ms[row] += sides[row].calls * float(ms)
            waited_ms[row] += sides[row].calls * float(waiting)
    blocked = [sum(rank.phases_ms.values()) for rank in ranks]
    transfer, waiting_ms = [], []
    for row, rank in enumerate(ranks):
        in_all = sum(each.calls * (each.blocked_ms or 0.0) for each in rank.exchanges if each.kind in ENDING_TOGETHER)
        if blocked[row] > 0 and parted_ms[row] < _COVERED * in_all:
            return (
                "collectives run in groups smaller than the job, and too few of their calls were kept by all ranks "
                "of a group"
            )
        share = waited_ms[row] / parted_ms[row] if parted_ms[row] else 0.0
        waiting_ms.append(share * blocked[row])
        transfer.append((1 - share) * blocked[row])
    return Parted(float(np.mean(transfer)), tuple(waiting_ms))


def _meetings(ranks: Sequence[RankFacts]) -> dict[Key, dict[int, Exchange]]:
    """For each kind of call in each group that is there as a whole: the sides of its ranks, by their rows."""
    row_of = {rank.rank: row for row, rank in enumerate(ranks)}
    found: dict[Key, dict[int, Exchange]] = {}
    several: set[Key] = set()
    for row, rank in enumerate(ranks):
        everyone = tuple(range(rank.world_size))
        for each in rank.exchanges:
            members = each.members or everyone
            if each.kind not in ENDING_TOGETHER or len(members) != each.group_size or len(members) < 2:
                continue
            key = each.kind, each.group, each.dtype, int(each.bytes).bit_length(), members
            sides = found.setdefault(key, {})
            if row in sides:  # two groups of the same ranks and name
                several.add(key)
            sides[row] = each
    return {
        key: sides
        for key, sides in found.items()
        if key not in several and set(sides) == {row_of.get(member) for member in key[-1]}
    }


def contradiction(ranks: Sequence[RankFacts], parted: Parted, by_steps_ms: Sequence[float]) -> str | None:
    """Why whole steps can't say who is late, in a clause; None where they can.

    They take it that the shortest time that any rank is blocked for is the transfer of all. So all ranks have to make
    the same calls, and each has to come to what its single calls say of its waiting.
    """
    told = [_calls(rank) for rank in ranks]
    first = told[0]
    for calls in told[1:]:
        if set(calls) != set(first) or any(abs(calls[key] - first[key]) > _SAME_CALLS * first[key] for key in first):
            return "the ranks take part in different collectives, in groups smaller than the job"
    slack = max(_SAME_WAITING * parted.mean_ms, _SAME_WAITING_MS)
    if any(abs(one - other) > slack for one, other in zip(parted.by_rank_ms, by_steps_ms, strict=True)):
        return "whole steps and single calls tell different waits: links of groups differ, or groups never meet"
    return None


def _calls(rank: RankFacts) -> Mapping[tuple[str, str | None, int, int], float]:
    found: dict[tuple[str, str | None, int, int], float] = {}
    for each in rank.exchanges:
        if each.kind in ENDING_TOGETHER and each.group_size > 1:
            key = each.kind, each.dtype, int(each.bytes).bit_length(), each.group_size
            found[key] = found.get(key, 0.0) + each.calls
    return found
