"""The ranks of a job, from one trace each, and the rank that the others wait for.

In:  the facts of each file.
Out: `TraceRank` rows and, where one rank comes late, `LateTraceRank`.

Collectives end together, so that steps are equally long on all ranks, and the rank that comes last is the one that
waits least in them. What a rank needs of its own is its step less the time in which nothing but a collective ran on its
device; the late rank needs more of that than the typical other one, and the others wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, median

from profiler.analysis.device_facts import IDLE_CAUSES, DeviceFacts
from profiler.analysis.facts import Facts, LateTraceRank, TraceRank
from profiler.analysis.trace.together import Together

LATE_SHARE = 0.10  # of the step, by which a rank must be later than the typical other one
WAITED_SHARE = 0.5  # of its lateness, that the others must wait in collectives
LAST_SHARE = 0.5  # of the waiting by the clocks, that its coming last must cause
EQUAL_SHARE = 0.10  # steps that differ by more do not end together: not one job, or not the same steps


def rank_row(facts: Facts, rank: int | None, label: str) -> TraceRank:
    """One rank; means over its measured steps."""
    device, steps = facts.device, facts.steps
    step_ms = steps.mean_ms if steps is not None else None
    if device is None or not device.steps or device.thinned:
        return TraceRank(rank, label, step_ms, None, None, {})
    if device.pace_ms is not None:
        step_ms = max(step_ms or 0.0, device.pace_ms)
    parts = {"computing": _mean(device, "computing_ms"), "copies": _mean(device, "exposed_copies_ms")}
    parts |= {f"idle_{cause}": mean(step.idle_ms.get(cause, 0.0) for step in device.steps) for cause in IDLE_CAUSES}
    return TraceRank(
        rank,
        label,
        step_ms,
        waiting_ms=_mean(device, "exposed_collectives_ms"),
        own_ms=mean(step.wall_ms for step in device.steps) - _mean(device, "exposed_collectives_ms"),
        parts_ms=parts,
    )


def _mean(device: DeviceFacts, name: str) -> float:
    return mean(float(getattr(step, name)) for step in device.steps)


def with_clock(row: TraceRank, together: Together, place: int) -> TraceRank:
    """The row of the rank at this place, with what comparing the ranks tells of it."""
    offset = together.offsets[place]
    row = replace(row, late_wait_ms=together.waiting_ms[place] if together.waiting_ms is not None else None)
    if offset is None:
        return row
    first = together.offsets[0]
    moved = offset.offset_ns if place and first is not None else 0.0
    return replace(row, offset_ms=moved / 1e6, offset_error_ms=offset.error_ns / 1e6, drift_ppm=offset.drift * 1e6)


def agreed(late: LateTraceRank, rows: Sequence[TraceRank], together: Together | None) -> str | None:
    """Why clocks that are sure enough deny that this rank comes last; None where they don't.

    That it needs more of its own is told by durations, so that without sure clocks it stands.
    """
    if together is None or together.last_share is None or together.clocks.error_ms > late.late_ms / 2:
        return None
    share = together.last_share[[row.rank for row in rows].index(late.rank)]
    return None if share >= LAST_SHARE else "the rank that needs most of its own is not the one that comes last"


def late_rank(rows: Sequence[TraceRank]) -> LateTraceRank | None:
    """The rank that the others wait for; None where none does, or where it can't be told."""
    told = [row for row in rows if row.own_ms is not None and row.waiting_ms is not None and row.step_ms]
    ranks = {row.rank for row in rows}
    if len(told) < 2 or len(told) < len(rows) or len(ranks) < len(rows) or None in ranks:
        return None  # some can't be told, or these are not traces of one rank each
    steps = [row.step_ms or 0.0 for row in told]
    if max(steps) > (1 + EQUAL_SHARE) * min(steps):
        return None
    last = max(told, key=lambda row: row.own_ms or 0.0)
    others = [row for row in told if row is not last]
    late_ms = (last.own_ms or 0.0) - median(row.own_ms or 0.0 for row in others)
    waited_ms = median(row.waiting_ms or 0.0 for row in others)
    step_ms = mean(steps)
    if late_ms < LATE_SHARE * step_ms or waited_ms < WAITED_SHARE * late_ms:
        return None
    longer = {
        name: value - median(row.parts_ms.get(name, 0.0) for row in others) for name, value in last.parts_ms.items()
    }
    cause = max(longer, key=lambda name: longer[name])
    return LateTraceRank(last.rank, last.label, late_ms, step_ms, cause, longer[cause])
