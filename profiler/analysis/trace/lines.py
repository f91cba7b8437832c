"""How long the training thread was at each of the user's lines, by stage.

In:  the places of the training thread, and who owned it when.
Out: `LineTime`s as the sampler of a live run gives them, but measured; {} where no stacks were recorded.
"""

from __future__ import annotations

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.block import Moments
from profiler.analysis.facts import LineTime
from profiler.analysis.intervals import Intervals, Ints
from profiler.analysis.measured import Measured
from profiler.analysis.places import Places
from profiler.analysis.trace.host import Host
from profiler.record.vocabulary import STAGE_ORDER

MOST_LINES = 40  # of a stage
_RECORDS = ("torch.profiler.", "torch.autograd.profiler.")
_LEAST_SHARE = 0.001  # of a stage


def stage_intervals(moments: Moments, steps: Ints) -> dict[str, Intervals]:
    """When the training thread was in each stage within these steps, on the host's clock."""
    if len(moments.time_ns) < 2:
        return {}
    start, end = moments.time_ns[:-1], moments.time_ns[1:]
    label = moments.label[:-1].astype(np.int64)
    inside = (label < lab.LABELS) & np.isin(moments.step[:-1], steps) & (end > start)
    stage = lab.STAGE_OF[np.minimum(label, lab.LABELS - 1)]
    found = {}
    for number, name in enumerate(STAGE_ORDER):
        own = inside & (stage == number)
        if bool(own.any()):
            found[name] = Intervals(start[own], end[own])
    return found


def stage_lines(
    places: Places, thread: int, host: Host, moments: Moments, measured: Measured
) -> dict[str, tuple[LineTime, ...]]:
    """The lines of each stage, most time first."""
    within = places.tracks.get(thread)
    if within is None or len(within.edge) < 2:
        return {}
    edge, owner = host.clock.to(within.edge), within.owner[:-1]
    found = {}
    for stage, when in stage_intervals(moments, measured.index).items():
        time = when.within(edge[:-1], edge[1:])
        sums = np.bincount(owner + 1, weights=time, minlength=len(places.known) + 1)[1:]
        mean_ms = measured.mean(measured.stage_ns(stage)[measured.rows] / 1e6)
        found[stage] = _ranked(places, sums / max(when.total, 1), mean_ms)
    return {stage: lines for stage, lines in found.items() if lines}


def _ranked(places: Places, shares: np.ndarray, mean_ms: float) -> tuple[LineTime, ...]:
    lines = []
    for number in np.argsort(-shares, kind="stable")[:MOST_LINES].tolist():
        share = float(shares[number])
        if share < _LEAST_SHARE:
            break
        called = places.known[number].called
        if called.startswith(_RECORDS):
            continue  # what the recording itself took is no line of the training's
        line = places.line(number)
        lines.append(LineTime(line.site, called, 0, share, share * mean_ms, line.text, measured=True))
    return tuple(lines)
