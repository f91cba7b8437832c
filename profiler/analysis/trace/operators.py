"""Operators of the host by stage: each one's own time, without the operators within it.

In:  the operators of one process, and who owned the training thread when.
Out: rows as the deep window gives them: {"name", "stage", "ms_per_step", "calls_per_step"}, most time first.
"""

from __future__ import annotations

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
    cells = len(names) * len(STAGE_ORDER)
    sums, counts = np.zeros(cells), np.zeros(cells, dtype=np.int64)
    spent: list[tuple[Ints, Ints, Ints]] = []
    for track in busiest(operators.track):
        at = np.flatnonzero((operators.track == track) & ~operators.marked)
        own = _own_time(operators.start[at], operators.end[at])
        label, step = moments.at(host.clock.to(operators.start[at]))
        inside = (step >= 0) & (label < lab.LABELS)
        stage = lab.STAGE_OF[np.minimum(label[inside], lab.LABELS - 1)]
        cell = operators.name[at[inside]].astype(np.int64) * len(STAGE_ORDER) + stage
        sums += np.bincount(cell, weights=own[inside], minlength=cells)
        counts += np.bincount(cell, minlength=cells)
        if places:
            spent.append((cell, places.at(operators.start[at[inside]], operators.track[at[inside]]), own[inside]))
    found = [row for row in np.argsort(-sums, kind="stable")[:MOST_OPERATORS].tolist() if counts[row]]
    return tuple(
        {
            "name": names[row // len(STAGE_ORDER)],
            "stage": STAGE_ORDER[row % len(STAGE_ORDER)],
            "ms_per_step": float(sums[row]) / 1e6 / steps,
            "calls_per_step": float(counts[row]) / steps,
            **_site(places, spent, row, names),
        }
        for row in found
    )


def _site(places: Places, spent: list[tuple[Ints, Ints, Ints]], row: int, names: tuple[str, ...]) -> dict[str, Site]:
    """The user's line that most of an operator's time was for; {} where there is none."""
    own = [(where[cell == row], took[cell == row]) for cell, where, took in spent]
    if not own:
        return {}
    at, time = (np.concatenate(column) for column in zip(*own, strict=True))
    site = places.site(at, time, names[row // len(STAGE_ORDER)])
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
