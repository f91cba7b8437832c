"""One typical and one slow step of a trace, in full.

In:  the process that trains, its host's stages and its steps.
Out: `StepExcerpt`s: the stages, operators and waits of host threads, and what each stream of the device did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.block import Moments
from profiler.analysis.device.copies import copy_kind, synchronizes
from profiler.analysis.device.enclosing import top_level
from profiler.analysis.device.kernels import family_of
from profiler.analysis.excerpt import CALLS, DEVICE, OPERATORS, SLOW, STAGES, ExcerptRow, StepExcerpt
from profiler.analysis.intervals import Bools, Intervals, Ints
from profiler.analysis.measured import Measured
from profiler.analysis.trace import words
from profiler.analysis.trace.host import Host
from profiler.analysis.trace.process import Process, named
from profiler.record.trace.recording import HostEvents, Recording, Work
from profiler.record.vocabulary import STAGE_ORDER

MOST_SPANS = 12_000  # of one step
MOST_STREAMS = 6  # those that were busy longest
MOST_THREADS = 3  # beside the training thread, those with most operators


@dataclass(frozen=True, slots=True)
class _Window:
    start: int
    end: int

    def holds(self, start: Ints, end: Ints) -> Bools:
        found: Bools = (start < self.end) & (end > self.start)
        return found


def step_excerpts(
    process: Process, host: Host, moments: Moments, measured: Measured | None, windows: Intervals
) -> tuple[StepExcerpt, ...]:
    """The step nearest to the median, and the slowest where it is much slower. Nothing of a thinned recording."""
    if measured is None or process.recording.thinned or len(windows) != len(measured.rows):
        return ()
    rows = np.flatnonzero(measured.rows)
    if len(rows) == 0:
        return ()
    walls = (windows.end - windows.start)[rows]
    median = float(np.median(walls))
    typical = int(rows[np.argmin(np.abs(walls - median))])
    slowest = int(rows[np.argmax(walls)])
    chosen = [(typical, "typical")]
    if slowest != typical and float(walls.max()) >= SLOW * median:
        chosen.append((slowest, "slow"))
    return tuple(
        _excerpt(process, host, moments, int(measured.columns["index"][row]), word, windows, row)
        for row, word in chosen
    )


def _excerpt(
    process: Process, host: Host, moments: Moments, index: int, what: str, windows: Intervals, row: int
) -> StepExcerpt:
    window = _Window(int(windows.start[row]), int(windows.end[row]))
    made = [
        _stages(host, moments, window),
        *_threads(process, window),
        *_streams(process.recording, window),
    ]
    kept, left_out = _longest([row for row in made if row.names])
    wall = window.end - window.start
    return StepExcerpt(index, what, window.start / 1e6, wall / 1e6, tuple(kept), left_out)


def _stages(host: Host, moments: Moments, window: _Window) -> ExcerptRow:
    """Who owned the training thread, moment by moment."""
    clock = host.clock.to(np.array([window.start, window.end], dtype=np.int64))
    first, last = int(clock[0]), int(clock[1])
    inside = np.flatnonzero((moments.time_ns > first) & (moments.time_ns < last))
    at = np.concatenate(([first], moments.time_ns[inside], [last]))
    label, _ = moments.at(at[:-1])
    starts: list[int] = []
    lengths: list[int] = []
    names: list[str] = []
    classes: list[str] = []
    for start, end, number in zip(at[:-1].tolist(), at[1:].tolist(), label.tolist(), strict=True):
        if end <= start or number >= lab.LABELS:
            continue
        stage = STAGE_ORDER[int(lab.STAGE_OF[number])]
        part = lab.PARTS[number][1] if number < len(lab.PARTS) else ""
        if (
            names
            and classes[-1] == stage
            and names[-1] == (part or stage)
            and starts[-1] + lengths[-1] == start - first
        ):
            lengths[-1] += end - start
            continue
        starts.append(start - first)
        lengths.append(end - start)
        names.append(part or stage)
        classes.append(stage)
    return ExcerptRow("stages", STAGES, "host", _us(starts), _us(lengths), tuple(names), tuple(classes))


def _threads(process: Process, window: _Window) -> Iterable[ExcerptRow]:
    """Outermost operators of the training thread and of the busiest others, and the training thread's waits."""
    recording = process.recording
    operators = recording.operators
    inside = operators.where(np.flatnonzero(window.holds(operators.start, operators.end) & ~operators.marked))
    tracks, counts = np.unique(inside.track, return_counts=True)
    others = [int(track) for track in tracks[np.argsort(-counts, kind="stable")] if track != process.thread]
    for number, track in enumerate([process.thread, *others[:MOST_THREADS]]):
        own = inside.where(np.flatnonzero(inside.track == track))
        own = own.where(top_level(own.start, own.end))
        if number == 0:
            yield _host_row("operators", OPERATORS, own, recording, window)
            yield _waits(process, window)
            continue
        gradients = np.count_nonzero(named(own, recording.names, words.is_gradient))
        name = "autograd" if 2 * gradients > len(own) else f"thread {recording.tracks[track].thread}"
        yield _host_row(name, OPERATORS, own, recording, window)


def _waits(process: Process, window: _Window) -> ExcerptRow:
    """Calls of the training thread that return only once the device has caught up."""
    recording = process.recording
    calls = recording.calls
    own = calls.where(np.flatnonzero(window.holds(calls.start, calls.end) & (calls.track == process.thread)))
    return _host_row("waits", CALLS, own.where(named(own, recording.names, synchronizes)), recording, window)


def _host_row(name: str, kind: str, events: HostEvents, recording: Recording, window: _Window) -> ExcerptRow:
    order = np.argsort(events.start, kind="stable")
    start = np.maximum(events.start[order], window.start)
    end = np.minimum(events.end[order], window.end)
    names = tuple(recording.names[number] for number in events.name[order].tolist())
    return ExcerptRow(
        name, kind, "host", _us(start - window.start), _us(np.maximum(end - start, 0)), names, ("",) * len(names)
    )


def _streams(recording: Recording, window: _Window) -> Iterable[ExcerptRow]:
    """What each stream did within the step, whenever it was launched."""
    device = recording.device
    inside = np.flatnonzero(window.holds(device.start, device.end))
    keys = np.stack([device.device[inside], device.stream[inside]], axis=1)
    length = (device.end - device.start)[inside]
    streams, place = np.unique(keys, axis=0, return_inverse=True) if len(inside) else (keys, np.empty(0, np.int64))
    busy = np.bincount(place.ravel(), weights=length, minlength=len(streams)) if len(inside) else np.empty(0)
    for number in np.argsort(-busy, kind="stable")[:MOST_STREAMS].tolist():
        own = inside[place.ravel() == number]
        own = own[np.argsort(device.start[own], kind="stable")]
        start = np.maximum(device.start[own], window.start)
        end = np.minimum(device.end[own], window.end)
        names = tuple(recording.names[it] for it in device.name[own].tolist())
        classes = tuple(
            family_of(name) if work == Work.KERNEL else copy_kind(name) if work == Work.COPY else "memset"
            for name, work in zip(names, device.work[own].tolist(), strict=True)
        )
        which, stream = (int(value) for value in streams[number])
        yield ExcerptRow(
            f"stream {stream}" if stream >= 0 else "device",
            DEVICE,
            f"device {max(which, 0)}",
            _us(start - window.start),
            _us(end - start),
            names,
            classes,
        )


def _longest(rows: Sequence[ExcerptRow]) -> tuple[list[ExcerptRow], int]:
    """The rows without the shortest spans of all, should they hold too many; and how many were left out."""
    total = sum(len(row.names) for row in rows)
    if total <= MOST_SPANS:
        return list(rows), 0
    lengths = np.concatenate([np.array(row.length_us) for row in rows])
    least = float(np.partition(lengths, total - MOST_SPANS)[total - MOST_SPANS])
    kept = [_longer(row, least) for row in rows]
    return kept, total - sum(len(row.names) for row in kept)


def _longer(row: ExcerptRow, least: float) -> ExcerptRow:
    chosen = [index for index, length in enumerate(row.length_us) if length > least or row.kind == STAGES]
    return replace(
        row,
        start_us=tuple(row.start_us[index] for index in chosen),
        length_us=tuple(row.length_us[index] for index in chosen),
        names=tuple(row.names[index] for index in chosen),
        classes=tuple(row.classes[index] for index in chosen),
    )


def _us(values: Ints | Sequence[int]) -> tuple[float, ...]:
    return tuple((np.asarray(values, dtype=np.float64) / 1e3).round(3).tolist())
