"""Operators of the host by stage: each one's own time, without the operators within it.

In:  the operators of one process, and who owned the training thread when.
Out: rows as the deep window gives them: {"name", "stage", "ms_per_step", "calls_per_step"}, most time first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.block import Moments
from profiler.analysis.device.enclosing import MOST_TRACKS, parents
from profiler.analysis.intervals import Ints
from profiler.analysis.trace.host import Host
from profiler.analysis.trace.process import Process
from profiler.record.trace.recording import HostEvents
from profiler.record.vocabulary import STAGE_ORDER

MOST_OPERATORS = 40


def operator_rows(process: Process, host: Host, moments: Moments, steps: int) -> tuple[dict[str, Any], ...]:
    """The operators with most time of their own within the steps, on all threads of the process."""
    every = process.recording.operators
    operators = every.where(~every.marked)
    own = _own_time(operators)
    label, step = moments.at(host.clock.to(operators.start))
    inside = (step >= 0) & (label < lab.LABELS)
    stage = lab.STAGE_OF[np.minimum(label, lab.LABELS - 1)]
    key = operators.name[inside].astype(np.int64) * len(STAGE_ORDER) + stage[inside]
    keys, place = np.unique(key, return_inverse=True)
    sums = np.bincount(place, weights=own[inside], minlength=len(keys))
    counts = np.bincount(place, minlength=len(keys))
    return tuple(
        {
            "name": process.recording.names[int(keys[row]) // len(STAGE_ORDER)],
            "stage": STAGE_ORDER[int(keys[row]) % len(STAGE_ORDER)],
            "ms_per_step": float(sums[row]) / 1e6 / steps,
            "calls_per_step": float(counts[row]) / steps,
        }
        for row in np.argsort(-sums, kind="stable")[:MOST_OPERATORS].tolist()
    )


def _own_time(operators: HostEvents) -> Ints:
    """Each operator's time less that of the operators right within it."""
    length = operators.end - operators.start
    own = length.copy()
    tracks, counts = np.unique(operators.track, return_counts=True)
    for track in tracks[np.argsort(-counts, kind="stable")][:MOST_TRACKS].tolist():
        at = np.flatnonzero(operators.track == track)
        around = parents(operators.start[at], operators.end[at])
        inner = around >= 0
        np.subtract.at(own, at[around[inner]], length[at[inner]])
    at_least: Ints = np.maximum(own, 0)
    return at_least
