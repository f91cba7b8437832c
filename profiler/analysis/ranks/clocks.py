"""Bring the clocks of several hosts together.

In:  when each rank began to wait in collectives of matched steps, and when it was done, on its own clock.
Out: the offset of each rank's clock against the first's, with an error; or that it is not known.

Ranks on one host since one boot share a clock. Between hosts the collectives themselves are the messages: none of
them ends on any rank before the last rank has come. So for two ranks a and b, with o = clock of b - clock of a,

    end_a >= arrival_b - o   and   end_b - o >= arrival_a:   arrival_b - end_a <= o <= end_b - arrival_a

as in a ping-pong, where every step is a ball: the interval that all steps leave holds the offset. Clocks
also drift: a line through the steps' differences in their ends is taken off first (Theil-Sen,
which a few late messages can't bend), and what the intervals contradict each other by is added to the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler.analysis.rank_facts import Clocks, RankFacts
from profiler.analysis.ranks.grouped import in_small_groups
from profiler.analysis.ranks.matched import Floats, Ints, Matched

_MOST_PAIRS = 200  # steps that the drift is fitted to
WIDEST_ERROR_MS = 20.0  # an offset less sure than this is not used
_FEWEST = 10  # collectives


@dataclass(frozen=True, slots=True)
class Offset:
    """One clock against another: `other - reference` at a moment of the reference's, and how it moves."""

    offset_ns: float
    drift: float  # ns per ns of the reference
    error_ns: float
    began_ns: int

    def to_reference(self, other_ns: Ints) -> Floats:
        """Moments of the other clock as ns of the reference's since `began_ns`."""
        since = (other_ns - (self.began_ns + round(self.offset_ns))).astype(np.float64)
        result: Floats = since / (1.0 + self.drift)
        return result


def estimate(arrival_a: Ints, end_a: Ints, arrival_b: Ints, end_b: Ints, transfer_ns: float) -> Offset | None:
    """The clock of b against that of a, from matched collectives; None for too few of them.

    `transfer_ns` is what the rank that comes last is blocked for, whichever that is.
    """
    if len(end_a) < _FEWEST:
        return None
    base_a, base_b = int(arrival_a[0]), int(arrival_b[0])
    at_a, at_b = (arrival_a - base_a).astype(np.float64), (arrival_b - base_b).astype(np.float64)
    to_a, to_b = (end_a - base_a).astype(np.float64), (end_b - base_b).astype(np.float64)
    drift = _slope(to_a, to_b - to_a)
    apart = to_b - to_a - drift * to_a
    low = float(np.max(at_b - to_a - drift * to_a))
    high = float(np.min(to_b - at_a - drift * at_a))
    middle = float(np.median(apart))
    if low > high:  # the drift is no line, or an arrival is not what it seems
        error = (low - high) / 2 + abs(middle - (low + high) / 2)
    else:
        middle = min(max(middle, low), high)
        # where one rank is always late the bounds are loose by its lateness; but both ends lie within the transfer
        # that follows the last arrival
        jitter = float(np.percentile(np.abs(apart - middle), 90))
        error = min(max(high - middle, middle - low), transfer_ns + jitter)
    return Offset(base_b - base_a + middle, drift, error, base_a)


def _slope(x: Floats, y: Floats) -> float:
    """The median slope between pairs of points half the range apart."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_PAIRS)).astype(np.int64))
    x, y = x[chosen], y[chosen]
    half = len(x) // 2
    run = x[half:] - x[: len(x) - half]
    rise = y[half:] - y[: len(y) - half]
    good = run > 0
    return float(np.median(rise[good] / run[good])) if bool(good.any()) else 0.0


def align(ranks: Sequence[RankFacts], matched: Matched | None) -> tuple[Clocks, dict[str, Offset]]:
    """How the clocks lie, and the offset of each host's against the first rank's."""
    hosts = [clock_of(rank) for rank in ranks]
    if not ranks or (len(set(hosts)) == 1 and hosts[0] != "|"):
        return Clocks("one host", True, 0.0, 0.0, 0.0), {hosts[0]: Offset(0.0, 0.0, 0.0, 0)} if hosts else {}
    if matched is None or not matched.phases:
        return Clocks("the ranks share no steps with collectives that end together", False, 0.0, 0.0, 0.0), {}
    if any(map(in_small_groups, ranks)):
        return Clocks(
            "collectives run in groups smaller than the job, and do not end for all ranks together",
            False,
            0.0,
            0.0,
            0.0,
        ), {}
    phase = max(matched.phases, key=lambda name: float(matched.column(f"comm_{name}").sum()))
    arrival = _moments(matched, f"from_{phase}")
    end = _moments(matched, f"to_{phase}")
    present = (matched.column(f"to_{phase}") > 0).all(axis=0)
    arrival, end = arrival[:, present], end[:, present]
    transfer_ns = float(np.median(matched.column(f"comm_{phase}").min(axis=0))) * 1e6
    offsets: dict[str, Offset] = {hosts[0]: Offset(0.0, 0.0, 0.0, 0)}
    for row, host in enumerate(hosts):
        if host not in offsets:
            found = estimate(arrival[0], end[0], arrival[row], end[row], transfer_ns)
            if found is None:
                return Clocks("too few collectives to tell the hosts' clocks", False, 0.0, 0.0, 0.0), {}
            offsets[host] = found
    error_ms = max(offset.error_ns for offset in offsets.values()) / 1e6
    aligned = error_ms <= WIDEST_ERROR_MS
    return (
        Clocks(
            method="collectives" if aligned else "the hosts' clocks could not be told apart well enough",
            aligned=aligned,
            error_ms=error_ms,
            largest_offset_ms=max(abs(offset.offset_ns) for offset in offsets.values()) / 1e6,
            largest_drift_ppm=max(abs(offset.drift) for offset in offsets.values()) * 1e6,
        ),
        offsets,
    )


def arrivals(ranks: Sequence[RankFacts], matched: Matched, offsets: dict[str, Offset], phases: Sequence[str]) -> Floats:
    """How long before the last rank each rank came to the first collective of a phase, ms, less than 0.

    Of several phases that in which it came earliest: in groups, a rank that has waited for a late one comes last to
    the next phase with it, but to its own before it.
    """
    behind = []
    for phase in phases:
        at = _moments(matched, f"from_{phase}")
        began = int(at[0, 0])
        rows = []
        for row, rank in enumerate(ranks):
            offset = offsets[clock_of(rank)]
            rows.append(offset.to_reference(at[row]) + (offset.began_ns - began))
        came = np.stack(rows) / 1e6
        behind.append(came - came.max(axis=0))
    least: Floats = np.min(behind, axis=0)
    return least


def _moments(matched: Matched, name: str) -> Ints:
    return matched.start_ns + (matched.column(name) * 1e6).astype(np.int64)


def clock_of(rank: RankFacts) -> str:
    """What tells one clock from another."""
    return f"{rank.host}|{rank.boot_id}"
