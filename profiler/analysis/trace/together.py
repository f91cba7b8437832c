"""The ranks of a job side by side, by the collectives that end for all of them together.

In:  what each rank's trace holds of them.
Out: `Together`: how the clocks lie, what was transfer and what was waiting for later ranks, and who came last.

What the rank that comes last spends in a collective is the transfer, what others spend beyond that is their wait for
it: that compares durations and needs no clock. The clocks of hosts are told from the same collectives
(`analysis/ranks/clocks.py`): nobody is done before the last has come. Who came last is said by these clocks alone, and
only as far as their error allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler.analysis.rank_facts import Clocks
from profiler.analysis.ranks.clocks import WIDEST_ERROR_MS, Offset, estimate
from profiler.analysis.ranks.matched import Floats, Ints
from profiler.analysis.trace.exchanges import Exchanges

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Together:
    """Ranks in the order in which they were given. Milliseconds; those per step are means over the compared steps."""

    clocks: Clocks
    offsets: tuple[Offset | None, ...]  # of each rank's clock against the first's; None: not told
    steps: int  # compared
    transfer_ms: float | None  # per step; None: not all ranks of the job are there
    waiting_ms: tuple[float, ...] | None  # per step and rank, for ranks that came later
    last_share: tuple[float, ...] | None  # of the waiting, that each rank's coming last caused; None: no sure clocks


@dataclass(frozen=True, slots=True)
class _Met:
    """Collectives that all ranks took part in: arrays of (ranks, collectives), ns of each rank's clock."""

    start: Ints
    end: Ints
    steps: int


def lay_together(ranks: Sequence[Exchanges], world_size: int) -> Together:
    """Compare the ranks; what they have in common may be too little for any of it."""
    met = _met(ranks, max(world_size, len(ranks)))
    nothing: tuple[Offset | None, ...] = (None,) * len(ranks)
    if met is None:
        why = "the ranks share no marked steps with collectives that end together"
        return Together(Clocks(why, False, 0.0, 0.0, 0.0), nothing, 0, None, None, None)
    length = (met.end - met.start).astype(np.float64)
    least = length.min(axis=0)
    transfer = waiting = None
    if len(ranks) >= world_size:
        transfer = float(least.sum()) / met.steps / NS_PER_MS
        waiting = tuple(((length - least).sum(axis=1) / met.steps / NS_PER_MS).tolist())
    offsets = [
        Offset(0.0, 0.0, 0.0, int(met.end[0, 0])),
        *(estimate(met.start[0], met.end[0], met.start[row], met.end[row], float(np.median(least)))
          for row in range(1, len(ranks))),
    ]  # fmt: skip
    known = [offset for offset in offsets if offset is not None]
    if len(known) < len(offsets):
        clocks = Clocks("too few collectives to tell the hosts' clocks", False, 0.0, 0.0, 0.0)
        return Together(clocks, nothing, met.steps, transfer, waiting, None)
    error_ms = max(offset.error_ns for offset in known) / NS_PER_MS
    aligned = error_ms <= WIDEST_ERROR_MS
    clocks = Clocks(
        method="collectives" if aligned else "the hosts' clocks could not be told apart well enough",
        aligned=aligned,
        error_ms=error_ms,
        largest_offset_ms=max(abs(offset.offset_ns) for offset in known) / NS_PER_MS,
        largest_drift_ppm=max(abs(offset.drift) for offset in known) * 1e6,
    )
    last = _last_share(met, known) if aligned else None
    return Together(clocks, tuple(known) if aligned else nothing, met.steps, transfer, waiting, last)


def _met(ranks: Sequence[Exchanges], world_size: int) -> _Met | None:
    """Collectives of the whole job in those steps in which all ranks had the same ones, in the same order."""
    if len(ranks) < 2:
        return None
    steps_of = [_by_step(rank, world_size) for rank in ranks]
    each = list(zip(ranks, steps_of, strict=True))
    common = sorted(set.intersection(*map(set, steps_of)))
    alike = [step for step in common if len({_signature(rank, steps[step]) for rank, steps in each}) == 1]
    if not alike:
        return None
    start, end = [], []
    for rank, steps in each:
        rows = [row for step in alike for row in steps[step]]
        start.append([rank.start_ns[row] for row in rows])
        end.append([rank.end_ns[row] for row in rows])
    met = _Met(np.array(start, dtype=np.int64), np.array(end, dtype=np.int64), len(alike))
    order = np.argsort(met.end[0], kind="stable")
    return _Met(met.start[:, order], met.end[:, order], met.steps)


def _by_step(rank: Exchanges, world_size: int) -> dict[int, list[int]]:
    """Rows of the collectives that the whole job takes part in, as far as the trace says who does."""
    found: dict[int, list[int]] = {}
    for row, (step, members) in enumerate(zip(rank.step, rank.members, strict=True)):
        if members in (-1, world_size):
            found.setdefault(step, []).append(row)
    return found


def _signature(rank: Exchanges, rows: list[int]) -> tuple[tuple[str, int], ...]:
    return tuple((rank.kind[row], rank.elements[row]) for row in rows)


def _last_share(met: _Met, offsets: Sequence[Offset]) -> tuple[float, ...] | None:
    """What the typical other rank waited for each rank, as a share of all such waiting."""
    began = offsets[0].began_ns
    at = np.stack([
        offset.to_reference(met.start[row]) + (offset.began_ns - began) for row, offset in enumerate(offsets)
    ])  # fmt: skip
    last = np.argmax(at, axis=0)
    others: Floats = at.copy()
    others[last, np.arange(len(last))] = np.nan
    due = np.bincount(last, weights=at.max(axis=0) - np.nanmedian(others, axis=0), minlength=len(offsets))
    return tuple((due / due.sum()).tolist()) if due.sum() > 0 else None
