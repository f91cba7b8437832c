"""Operators of the host by stage: each one's own time, without the operators within it.

In:  the operators of one process, and who owned the training thread when.
Out: rows as the deep window gives them: {"name", "stage", "ms_per_step", "calls_per_step"}, most time first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.block import Moments
from profiler.analysis.device.enclosing import busiest, parents
from profiler.analysis.intervals import Ints
from profiler.analysis.places import Places
from profiler.analysis.site import Site
from profiler.analysis.trace.host import Host
from profiler.analysis.trace.process import Process
from profiler.record.vocabulary import STAGE_ORDER

MOST_OPERATORS = 40


def operator_rows(
    process: Process, host: Host, moments: Moments, places: Places, steps: int
) -> tuple[dict[str, Any], ...]:
    """The operators with most time of their own within the steps, on all threads of the process."""
    operators, names = process.recording.operators, process.recording.names
    nothing = np.empty(0, dtype=np.int64)
    cells, took, where = [nothing], [nothing], [nothing]  # per operator: name and stage, its own time, place
    for track in busiest(operators.track):
        at = np.flatnonzero((operators.track == track) & ~operators.marked)
        own = _own_time(operators.start[at], operators.end[at])
        label, step = moments.at(host.clock.to(operators.start[at]))
        inside = (step >= 0) & (label < lab.LABELS)
        stage = lab.STAGE_OF[np.minimum(label[inside], lab.LABELS - 1)]
        cells.append(operators.name[at[inside]].astype(np.int64) * len(STAGE_ORDER) + stage)
        took.append(own[inside])
        where.append(places.at(operators.start[at[inside]], operators.track[at[inside]]))
    cell, time, place = np.concatenate(cells), np.concatenate(took), np.concatenate(where)
    sums, counts = np.bincount(cell, weights=time), np.bincount(cell)
    found = [row for row in np.argsort(-sums, kind="stable")[:MOST_OPERATORS].tolist() if counts[row]]
    rank = np.full(len(sums), len(found), dtype=np.int8)
    rank[found] = np.arange(len(found))
    ranks = rank[cell]
    by_rank = np.argsort(ranks, kind="stable")
    edges = np.searchsorted(ranks[by_rank], np.arange(len(found) + 1))
    calls_of = [by_rank[low:high] for low, high in pairwise(edges.tolist())]
    return tuple(
        {
            "name": names[row // len(STAGE_ORDER)],
            "stage": STAGE_ORDER[row % len(STAGE_ORDER)],
            "ms_per_step": float(sums[row]) / 1e6 / steps,
            "calls_per_step": float(counts[row]) / steps,
            **_site(places, place[calls], time[calls], names[row // len(STAGE_ORDER)]),
        }
        for row, calls in zip(found, calls_of, strict=True)
    )


def _site(places: Places, at: Ints, time: Ints, operator: str) -> dict[str, Site]:
    """The user's line that most of an operator's time was for; {} where there is none."""
    site = places.site(at, time, operator)
    return {} if site is None else {"site": site}


def _own_time(start: Ints, end: Ints) -> Ints:
    """Time of each operator of a thread less that of the operators right within it."""
    length = end - start
    own = length.copy()
    around = parents(start, end)
    inner = around >= 0
    np.subtract.at(own, around[inner], length[inner])
    at_least: Ints = np.maximum(own, 0)
    return at_least
