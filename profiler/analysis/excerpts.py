"""One typical and one slow step of a live run, in full.

In:  `Folded`, which keeps the events of the slowest and of the newest steps; the measured steps.
Out: `StepExcerpt`s: the stages of the training thread, and the batches that workers made meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.block import with_losses
from profiler.analysis.excerpt import SLOW, STAGES, WORKERS, ExcerptRow, StepExcerpt
from profiler.analysis.fold import loss_roots, stage_names, user_labels
from profiler.analysis.folded import Folded
from profiler.analysis.measured import Measured
from profiler.analysis.stack import build, fields
from profiler.record.reader import NO_EVENTS, Events
from profiler.record.vocabulary import STAGE_ORDER, Kind

MOST_WORKERS = 16


def live_excerpts(
    folded: Folded, measured: Measured | None, notes: Sequence[dict[str, Any]], training_pid: int, began_ns: int
) -> tuple[StepExcerpt, ...]:
    """The newest steps' one nearest to the median, and the slowest of all where it is much slower.

    Steps in which something of ours ran are none. `began_ns` is when the process began, on the events' clock.
    """
    if measured is None or not bool(measured.rows.any()):
        return ()
    rows = {int(index): row for row, index in enumerate(measured.columns["index"].tolist()) if measured.rows[row]}
    walls = measured.columns["wall_ns"]
    median = float(np.median(walls[measured.rows]))
    newest = {index: events for index, events in folded.newest.items() if index in rows}
    slowest = {index: kept[1] for index, kept in folded.slowest.items() if index in rows}
    chosen: list[tuple[int, str, Events]] = []
    kept = {**slowest, **newest}
    if kept:
        typical = min(kept, key=lambda index: (abs(float(walls[rows[index]]) - median), index))
        chosen.append((typical, "typical", kept[typical]))
    if slowest:
        slow = max(slowest, key=lambda index: float(walls[rows[index]]))
        if float(walls[rows[slow]]) >= SLOW * median and slow not in (index for index, _, _ in chosen):
            chosen.append((slow, "slow", slowest[slow]))
    made = []
    for index, what, events in chosen:
        start, wall = int(measured.columns["start_ns"][rows[index]]), int(walls[rows[index]])
        stages = _stages(events, start, wall, notes)
        if stages is not None:
            workers = _workers(folded, start, wall, training_pid)
            made.append(StepExcerpt(index, what, (start - began_ns) / 1e6, wall / 1e6, (stages, *workers)))
    return tuple(made)


def _stages(events: Events, start: int, wall: int, notes: Sequence[dict[str, Any]]) -> ExcerptRow | None:
    """Who owned the training thread, moment by moment."""
    own_names = stage_names(notes)
    labels = user_labels(own_names)
    names = {label: own_names[number] for number, label in labels.items() if label >= lab.FIRST_USER}
    kind = fields(events).kind
    own = events[(kind == Kind.PUSH) | (kind == Kind.POP)]
    if len(own) == 0:
        return None
    built = build(own, NO_EVENTS, labels)
    times = np.clip(np.concatenate(([start], built.time, [start + wall])), start, start + wall)
    owner = np.concatenate(([lab.OTHER], with_losses(built, loss_roots(notes))))
    spans: list[tuple[int, int, str, str]] = []  # start, length, part, stage
    for begin, end, label in zip(times[:-1].tolist(), times[1:].tolist(), owner.tolist(), strict=True):
        if end <= begin or label >= lab.LABELS:
            continue
        stage = names.get(label) or STAGE_ORDER[int(lab.STAGE_OF[label])]
        part = (lab.PARTS[label][1] if label < len(lab.PARTS) else "") or stage
        if spans and spans[-1][2:] == (part, stage) and sum(spans[-1][:2]) == begin:
            spans[-1] = (spans[-1][0], end - spans[-1][0], part, stage)
        else:
            spans.append((begin, end - begin, part, stage))
    return ExcerptRow(
        "stages",
        STAGES,
        "host",
        tuple(round((begin - start) / 1e3, 3) for begin, _, _, _ in spans),
        tuple(round(length / 1e3, 3) for _, length, _, _ in spans),
        tuple(part for _, _, part, _ in spans),
        tuple(stage for _, _, _, stage in spans),
    )


def _workers(folded: Folded, start: int, wall: int, training_pid: int) -> list[ExcerptRow]:
    """The batches that each worker process made within the step, clipped to it."""
    batches = folded.batches.columns()
    if not batches or "wall_ns" not in batches:
        return []
    begun, ended = batches["start_ns"], batches["start_ns"] + batches["wall_ns"]
    inside = (begun < start + wall) & (ended > start) & (batches["pid"] != training_pid)
    made = []
    for number, pid in enumerate(np.unique(batches["pid"][inside]).tolist()[:MOST_WORKERS]):
        own = np.flatnonzero(inside & (batches["pid"] == pid))
        own = own[np.argsort(begun[own], kind="stable")]
        first = np.maximum(begun[own], start)
        last = np.minimum(ended[own], start + wall)
        made.append(
            ExcerptRow(
                f"worker {number}",
                WORKERS,
                "host",
                tuple(((first - start) / 1e3).round(3).tolist()),
                tuple(((last - first) / 1e3).round(3).tolist()),
                tuple(f"a batch, {length / 1e6:.3g} ms" for length in batches["wall_ns"][own].tolist()),
                ("batch",) * len(own),
            )
        )
    return made
