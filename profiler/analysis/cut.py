"""Where steps begin.

In:  the `Loop` of a stretch of the training thread.
Out: the numbers of the events at which steps begin. A step goes from one cut to the next.

`profiler.step()` rules where it is called. Otherwise a step begins with the first batch of training after an
optimizer's step; where training takes no batches from a loader, with the first forward that has gradients (or the
copy before it) after the step of the optimizer that steps least; without any optimizer, backward takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from profiler.analysis.loop import Begin, Key, Known, Loop, Stretch
from profiler.analysis.stack import Bools, Ints

UPDATES_ON_ONE_BATCH = 32  # more optimizer steps than this without a new batch: the loop is not fed by a loader

_LONGEST_CYCLE = 64  # steps of other optimizers around the only step of one


@dataclass(frozen=True, slots=True)
class Cuts:
    """Events at which steps begin; the last of them begins the step that is not complete."""

    at: Ints
    last_is_complete: bool  # the last step has had its update: it is a step even if nothing follows
    known: Known  # for what comes after the last cut


def cut(loop: Loop, entries: int, step_open: bool) -> Cuts:
    """Cut; with `step_open` a step begins at the first event, number `entries`."""
    known = loop.known
    if known.explicit:
        marks = loop.at[loop.kind == Key.MARK]
        head = [entries] if step_open else [_first_call(loop, marks)]
        return Cuts(np.unique(np.concatenate((head, marks))).astype(np.int64), False, known)
    updates = np.flatnonzero(loop.kind == (Key.STEP if known.stepped else Key.BACKWARD))
    batches = loop.starts[(loop.begins == Begin.BATCH) & (loop.does == Stretch.TRAIN)]
    batches = batches[batches < loop.decided]
    resumes = loop.starts[loop.begins == Begin.TRAINING]
    after = _after(np.union1d(batches, resumes), loop.at[updates])
    unfed = _unfed(loop, updates, batches)
    found = [after, _cuts_without_loader(loop, updates, unfed, batches)]
    if step_open:
        found.append(np.array([entries], dtype=np.int64))
    elif len(updates):
        found.append(_first_start(loop, int(loop.at[updates[0]]), batches))
    at = np.unique(np.concatenate(found))
    complete = len(updates) > 0 and bool(loop.at[updates[-1]] >= at[-1])
    return Cuts(at, complete, _with_updates(known, loop.at[updates], batches, at))


def _first_call(loop: Loop, marks: Ints) -> int:
    """The first call of training before the first mark, or the mark itself."""
    limit = int(marks[0]) if len(marks) else 0
    calls = loop.at[(loop.kind != Key.MARK) & _training(loop)]
    return int(calls[0]) if len(calls) and calls[0] < limit else limit


def _training(loop: Loop) -> Bools:
    """Which keys lie in stretches that train."""
    stretch = np.searchsorted(loop.starts, loop.at, side="right") - 1
    training: Bools = loop.does[stretch] == Stretch.TRAIN
    return training


def _after(candidates: Ints, updates: Ints) -> Ints:
    """The first candidate after each update, where there is one."""
    place = np.searchsorted(candidates, updates, side="right")
    return candidates[np.unique(place[place < len(candidates)])]


def _unfed(loop: Loop, updates: Ints, batches: Ints) -> list[Ints]:
    """Runs of updates (key numbers) between batches that are too long for a loop that a loader feeds."""
    if len(updates) == 0:
        return []
    if not loop.known.fed:
        return [updates]
    run = np.searchsorted(batches, loop.at[updates], side="right")
    edges = np.concatenate(([0], np.flatnonzero(np.diff(run)) + 1, [len(updates)]))
    lengths = np.diff(edges)
    lengths[0] += loop.known.updates_without_batch if run[0] == 0 else 0
    return [updates[edges[number] : edges[number + 1]] for number in np.flatnonzero(lengths > UPDATES_ON_ONE_BATCH)]


def _cuts_without_loader(loop: Loop, updates: Ints, unfed: list[Ints], batches: Ints) -> Ints:
    """The first forward with gradients, or copy before one, after each update that ends a cycle."""
    if not unfed:
        return np.empty(0, dtype=np.int64)
    candidates = _forward_starts(loop)
    found = [np.empty(0, dtype=np.int64)]
    for members in unfed:
        ends = members[cycle_ends(loop.obj[members].astype(np.int64))]
        at = _after(candidates, loop.at[ends])
        nearest = np.searchsorted(batches, loop.at[members[-1]], side="right")
        if nearest < len(batches):  # after the run's last update the next batch cuts
            at = at[at < batches[nearest]]
        found.append(at)
    return np.concatenate(found)


def _forward_starts(loop: Loop) -> Ints:
    """Events at which a forward with gradients, or the copies that feed one, begin in training."""
    which = (loop.kind == Key.COPY) | loop.grad
    at = loop.at[which & _training(loop)]
    starts: Ints = at[at <= loop.last_work]
    return starts


def cycle_ends(optimizers: Ints) -> Bools:
    """Which updates end a cycle, where several optimizers take turns: those of the one that steps least.

    Where they step equally often it is the one that comes last in the cycle. An optimizer governs the stretch of
    the loop in which it steps; other stretches (a training before this one) are governed by their own.
    """
    ends = np.zeros(len(optimizers), dtype=bool)
    governed = np.zeros(len(optimizers), dtype=bool)
    numbers, first, counts = np.unique(optimizers, return_index=True, return_counts=True)
    for number in numbers[np.lexsort((-first, counts))]:
        at = np.flatnonzero((optimizers == number) & ~governed)
        if len(at) == 0:
            continue
        ends[at] = True
        cycle = int(np.median(np.diff(at))) if len(at) > 1 else min(len(optimizers), _LONGEST_CYCLE)
        governed[max(int(at[0]) - cycle + 1, 0) : int(at[-1]) + 1] = True
        if len(optimizers) - int(at[-1]) - 1 < cycle:
            governed[int(at[-1]) :] = True
    return ends


def _first_start(loop: Loop, update: int, batches: Ints) -> Ints:
    """Where the first step begins: its batch, else its first forward, else whatever comes first of it."""
    if len(batches) and batches[0] < update:
        return batches[:1]
    forwards = _forward_starts(loop)
    if len(forwards) and forwards[0] < update:
        return forwards[:1]
    calls = loop.at[(loop.kind >= Key.FORWARD) & _training(loop)]
    return np.array([min(int(calls[0]), update)] if len(calls) else [update], dtype=np.int64)


def _with_updates(known: Known, updates: Ints, batches: Ints, at: Ints) -> Known:
    """Count the updates since the last batch, up to the last cut."""
    if len(at) == 0:
        return known
    last = int(at[-1])
    earlier = batches[batches < last]
    since = int(earlier[-1]) if len(earlier) else -1
    seen = int(np.count_nonzero((updates > since) & (updates < last)))
    if len(batches) and last in batches:
        seen = 0
    elif since < 0:
        seen += known.updates_without_batch
    return replace(known, updates_without_batch=seen)
