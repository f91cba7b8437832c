"""The steps that ranks share, side by side.

In:  `RankFacts` of ranks whose steps can be compared.
Out: `Matched`: arrays of shape (ranks, steps), milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiler.analysis.exchanges import PHASES
from profiler.analysis.rank_facts import RankFacts, Series
from profiler.record.vocabulary import STAGE_ORDER

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEWEST = 5  # steps in common below which nothing is compared


@dataclass(frozen=True, slots=True)
class Matched:
    """Common steps, in which nothing of ours ran on any rank."""

    ranks: tuple[int, ...]
    index: Ints
    start_ns: Ints  # (ranks, steps), each on its rank's clock
    columns: dict[str, Floats]

    def column(self, name: str) -> Floats:
        """A column; zeros where no rank has it."""
        return self.columns.get(name, np.zeros((len(self.ranks), len(self.index))))

    @property
    def phases(self) -> list[str]:
        """Phases that hold collectives which end for all ranks together."""
        return [phase for phase in PHASES if f"comm_{phase}" in self.columns]

    def blocked(self) -> Floats:
        """Blocked in collectives that end together, all phases."""
        return sum((self.column(f"comm_{phase}") for phase in self.phases), np.zeros(self.start_ns.shape))

    def wall(self) -> Floats:
        """Step times."""
        return sum((self.column(name) for name in STAGE_ORDER), np.zeros(self.start_ns.shape))


def match(ranks: Sequence[RankFacts]) -> Matched | None:
    """Lay the ranks' steps side by side; None where they have too few in common."""
    decoded = [_decoded(rank.series) for rank in ranks]
    if not decoded:
        return None
    common = decoded[0][0]
    for index, _, _ in decoded[1:]:
        common = np.intersect1d(common, index, assume_unique=True)
    if len(common) == 0:
        return None
    places = [np.searchsorted(index, common) for index, _, _ in decoded]
    left_out = np.zeros(len(common), dtype=bool)
    for (_, _, out), place in zip(decoded, places, strict=True):
        left_out |= out[place]
    kept = np.flatnonzero(~left_out)
    if len(kept) < FEWEST:
        return None
    places = [place[kept] for place in places]
    names = dict.fromkeys(name for rank in ranks for name in rank.series.columns)
    columns = {
        name: np.stack([_column(rank.series, name)[place] for rank, place in zip(ranks, places, strict=True)])
        for name in names
    }
    start = np.stack([start[place] for (_, start, _), place in zip(decoded, places, strict=True)])
    return Matched(tuple(rank.rank for rank in ranks), common[kept], start, columns)


def _decoded(series: Series) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    index = np.frombuffer(series.index, dtype="<i4").astype(np.int64)
    start = np.frombuffer(series.start, dtype="<i8").astype(np.int64)
    return index, start, np.frombuffer(series.left_out, dtype=np.uint8).astype(bool)


def _column(series: Series, name: str) -> Floats:
    if name in series.columns:
        return np.frombuffer(series.columns[name], dtype="<f4").astype(np.float64)
    return np.zeros(len(series.index) // 4)
