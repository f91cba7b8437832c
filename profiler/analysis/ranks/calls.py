"""Single calls of the same collective on the ranks that took part, side by side.

In:  `Exchange`s of ranks, of one kind, type, size and group.
Out: what each call blocked each rank; what it took once all had come: the time of the rank that it blocked least; the
     median of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

import numpy as np

from profiler.analysis.noise import MAD_TO_SIGMA
from profiler.analysis.rank_facts import Exchange
from profiler.analysis.ranks.matched import Floats

FEWEST = 8  # calls in common below which nothing is said
_OF_MEDIAN = 1.2533  # standard error of a median over that of a mean


def side_by_side(exchanges: Sequence[Exchange]) -> Floats | None:
    """What each call that all ranks have kept blocked each of them, ms, of shape (ranks, calls).

    None where ranks made other calls, or kept too few.
    """
    if len(exchanges) < 2 or any(not each.every or not each.times for each in exchanges):
        return None
    every = lcm(*(each.every for each in exchanges))
    columns = []
    for each in exchanges:
        step = every // each.every
        columns.append(np.frombuffer(each.times, dtype="<f4")[step - 1 :: step].astype(np.float64))
    count = min(len(column) for column in columns)
    if count < FEWEST:
        return None
    return np.stack([column[:count] for column in columns])


def transfers(exchanges: Sequence[Exchange]) -> Floats | None:
    """Transfer of each call that all ranks have kept, ms; None where they can't be laid side by side.

    One rank alone can't tell: what it was blocked for may be waiting.
    """
    kept = side_by_side(exchanges)
    return kept.min(axis=0) if kept is not None else None


def median_transfer(exchanges: Sequence[Exchange]) -> tuple[float, float] | None:
    """The median of these transfers and its standard error, ms; None where there are none."""
    taken = transfers(exchanges)
    if taken is None:
        return None
    middle = float(np.median(taken))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(taken - middle)))
    return middle, _OF_MEDIAN * spread / float(np.sqrt(len(taken)))
