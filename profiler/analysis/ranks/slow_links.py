"""Ranks between which messages take longer than between others.

In:  `RankFacts` of the compared ranks.
Out: `SlowLink`s, costliest first; why nothing can be compared where groups or pairs exchanged something.

Collectives of all ranks end for all of them together and tell nothing of a single link. Collectives of smaller groups
do, and messages from one rank to another: groups of one size, or pairs, that exchange the same are laid beside each
other by what a call takes once all of its ranks have come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, median_low
from typing import TypeVar

import numpy as np

from profiler.analysis.rank_facts import Exchange, RankFacts, SlowLink
from profiler.analysis.ranks.calls import median_transfer
from profiler.record.vocabulary import COLLECTIVES, ENDING_TOGETHER, Communication

SLOWER = 1.5  # times the typical group's time, from which a group is slow
_SURE = 4.0  # standard errors of its median
_FEW = 2  # slow ones are at most one in so many
_SEND, _RECEIVE = COLLECTIVES[Communication.SEND], COLLECTIVES[Communication.RECEIVE]
_ASYNCHRONOUS = "the device runs behind the host: a message returns before it has passed"
Part = TypeVar("Part", int, str)
Ranks = tuple[int, ...]
Key = tuple[str, str | None, int, int]  # kind, type, power of two of the bytes, ranks


@dataclass(frozen=True, slots=True)
class _Timed:
    """One group, or pair, and what its calls of one kind and size take."""

    ms: float
    error_ms: float
    calls: float
    bytes: float


def slow_links(ranks: Sequence[RankFacts]) -> tuple[SlowLink, ...] | str:
    """The slow groups and pairs."""
    by_key = _exchanged(ranks)
    if not by_key:
        return ()
    if any(rank.asynchronous for rank in ranks):
        return _ASYNCHRONOUS
    hosts = {rank.rank: rank.host for rank in ranks}
    found: list[SlowLink] = []
    compared = False
    for key, groups in by_key.items():
        timed = {who: each for who, each in ((who, _timed(given)) for who, given in groups.items()) if each}
        if len(timed) > 1:
            compared = True
            found += _slow(key, timed, hosts)
    if not compared:
        return "no two groups, nor two pairs, of ranks were seen to exchange messages of one kind and size"
    return tuple(sorted(found, key=lambda link: -link.excess_ms))


def _exchanged(ranks: Sequence[RankFacts]) -> dict[Key, dict[Ranks, list[Exchange]]]:
    """What each group and each pair exchanged, all of its ranks' sides of it."""
    found: dict[Key, dict[Ranks, list[Exchange]]] = {}
    for rank in ranks:
        for each in rank.exchanges:
            size = int(each.bytes).bit_length()
            if each.kind in (_SEND, _RECEIVE) and each.peer is not None:
                who: Ranks = (rank.rank, each.peer) if each.kind == _SEND else (each.peer, rank.rank)
                key: Key = ("message", each.dtype, size, 2)
            elif each.kind in ENDING_TOGETHER and 1 < len(each.members) == each.group_size < rank.world_size:
                who, key = each.members, (each.kind, each.dtype, size, each.group_size)
            else:
                continue
            found.setdefault(key, {}).setdefault(who, []).append(each)
    return found


def _timed(exchanges: Sequence[Exchange]) -> _Timed | None:
    """What a call takes; None where a rank's side is missing, or too few calls were kept."""
    first = exchanges[0]
    sides = 2 if first.kind in (_SEND, _RECEIVE) else first.group_size
    taken = median_transfer(exchanges) if len(exchanges) == sides else None
    return _Timed(*taken, float(np.mean([each.calls for each in exchanges])), first.bytes) if taken else None


def _slow(key: Key, timed: Mapping[Ranks, _Timed], hosts: Mapping[int, str]) -> list[SlowLink]:
    kind, _, _, _ = key
    middle = median_low if len(timed) < 4 else median
    typical = float(middle([each.ms for each in timed.values()]))
    error = float(median([each.error_ms for each in timed.values()]))
    slow = {
        who: each
        for who, each in timed.items()
        if each.ms >= SLOWER * typical and each.ms - typical >= _SURE * float(np.hypot(each.error_ms, error))
    }
    if not slow or len(slow) > len(timed) // _FEW:
        return []
    links = [
        SlowLink(
            ranks=who,
            pair=kind == "message",
            kind=kind,
            bytes=each.bytes,
            calls=each.calls,
            ms=each.ms,
            typical_ms=typical,
            others=len(timed) - len(slow),
            host=None,
            rank=None,
        )
        for who, each in slow.items()
    ]
    several = len(set(hosts.values())) > 1
    host = _common({who: {hosts.get(rank, "") for rank in who} for who in timed}, set(slow)) if several else None
    rank = _common({who: set(who) for who in timed}, set(slow)) if len(slow) > 1 else None
    return [replace(link, host=host, rank=rank) for link in links]


def _common(parts: Mapping[Ranks, set[Part]], slow: set[Ranks]) -> Part | None:
    """What all slow ones have and no other one has; None where it is nothing, or not one thing."""
    shared = set.intersection(*(parts[who] for who in slow))
    left = shared.difference(*(parts[who] for who in parts if who not in slow))
    return left.pop() if len(left) == 1 else None
