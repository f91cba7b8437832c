"""What the deep window saw: operators, threads, operations, and what the accelerator did.

In:  the folder of a training process, its `operators` notes, and how long the run's steps are without the window.
Out: the note that stands for the run, and `DeviceFacts` from the trace that belongs to it.

A run that changed for long was looked at twice: of two windows the one counts whose steps were those of most of the
run. Watching slows the host and not the device: what the device did is taken as recorded, its idle time is what the
run's own step leaves beside that, divided among its causes as recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from profiler.analysis.device_facts import DeviceFacts, DeviceStep
from profiler.analysis.excerpt import StepExcerpt
from profiler.analysis.facts import Facts
from profiler.analysis.trace.facts import facts_of
from profiler.errors import ProfError
from profiler.record.trace.read import read_trace

Note = Mapping[str, Any]


def window_note(notes: Sequence[Note], step_ms: float | None) -> Note | None:
    """The window that stands for steps of this length; None where none was read."""
    if len(notes) < 2 or step_ms is None:
        return next(iter(notes), None)

    def off(note: Note) -> float:
        before = note.get("before_ms")  # how long steps were before the window
        return abs(float(before) - step_ms) if isinstance(before, (int, float)) else step_ms

    return min(notes, key=off)


def window_notice(notes: Sequence[Note], chosen: Note | None) -> tuple[str, ...]:
    """That the run changed, and which of the windows the figures are of."""
    if len(notes) < 2 or chosen is None:
        return ()
    at, first = notes[-1].get("at_step"), chosen is notes[0]
    which = "first look, before that" if first else "second look, after that"
    return (
        f"steps became faster or slower for long before optimizer step {at}, and were looked at operator by operator "
        f"once more; the operators shown are of the {which}",
    )


def operators_of(note: Note | None) -> tuple[dict[str, Any], ...]:
    """Its rows, each with its share of the watched step."""
    if note is None:
        return ()
    rows = [dict(row) for row in note.get("rows") or () if isinstance(row, dict)]
    whole = note.get("watched_ms")
    if isinstance(whole, (int, float)) and whole > 0:
        rows = [{**row, "share": float(row.get("ms_per_step") or 0.0) / whole} for row in rows]
    return tuple(rows)


def window_device(
    directory: Path, note: Note | None, step_ms: float | None
) -> tuple[DeviceFacts | str | None, Facts | None]:
    """The device's side of the window, and the facts of its trace.

    Or a clause that says why there is none; None where none was to be kept.
    """
    name = note.get("file") if note else None
    if not isinstance(name, str) or not name:
        return None, None
    try:
        facts = facts_of(read_trace(directory / Path(name).name), source="window").facts
    except ProfError as error:
        return f"the deep window's trace can't be used: {error}".rstrip("."), None
    if facts.device is None:
        return "the deep window saw nothing of the device: another program may hold what it listens to", None
    return without_slowdown(facts.device, step_ms), facts


def watched_step(window: Facts | None) -> tuple[StepExcerpt, ...]:
    """One of the window's steps in full."""
    return tuple(
        replace(excerpt, what="watched") for excerpt in (window.excerpts if window else ()) if excerpt.what == "typical"
    )


def without_slowdown(device: DeviceFacts, step_ms: float | None) -> DeviceFacts:
    """The device beside steps as long as the run's own, where the watched ones were longer."""
    if step_ms is None or step_ms <= 0 or not device.steps:
        return device
    steps = tuple(_shortened(step, step_ms) for step in device.steps)
    cut = dict.fromkeys(device.idle_ms or {}, 0.0)
    for before, after in zip(device.steps, steps, strict=True):
        for cause in cut:
            cut[cause] += before.idle_ms.get(cause, 0.0) - after.idle_ms.get(cause, 0.0)
    shorter = sum(before.wall_ms - after.wall_ms for before, after in zip(device.steps, steps, strict=True))
    wall = sum(step.wall_ms for step in steps)
    return replace(
        device,
        steps=steps,
        span_ms=max(device.busy_ms, device.span_ms - shorter),
        steps_busy_share=min(1.0, sum(step.busy_ms for step in steps) / wall) if wall else device.steps_busy_share,
        idle_ms=None
        if device.idle_ms is None
        else {cause: max(0.0, idle - cut[cause]) for cause, idle in device.idle_ms.items()},
    )


def _shortened(step: DeviceStep, step_ms: float) -> DeviceStep:
    wall = max(step_ms, step.busy_ms)
    if wall >= step.wall_ms:
        return step
    idle = step.wall_ms - step.busy_ms
    left = (wall - step.busy_ms) / idle if idle > 0 else 0.0
    return replace(
        step,
        wall_ms=wall,
        idle_ms={cause: ms * left for cause, ms in step.idle_ms.items()},
        starved_ms=None if step.starved_ms is None else step.starved_ms * left,
        start_up_ms=step.start_up_ms * left,
    )
