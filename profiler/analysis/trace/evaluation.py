"""Evaluations within the steps that the profiler marked.

In:  marked steps, and when the loop took batches, ran backward and updated.
Out: the steps without their evaluations, where these stand at a step's beginning or end.

A loop marks a step each time that it has trained on a batch: what it does until the next one lies in that step. Batches
that are taken there, run through operators and followed by neither a backward pass nor an update are an evaluation's.
Where most steps hold such batches they belong to the training.
"""

from __future__ import annotations

import numpy as np

from profiler.analysis.intervals import Intervals, Ints
from profiler.record.trace.recording import HostEvents

LEAST_OPERATORS = 8  # after a batch was taken: fewer only copy it, as a loop does that takes batches ahead
MOST_SHARE = 0.5  # of the steps


def without_evaluation(
    steps: Intervals, operators: Ints, takes: HostEvents, passes: Intervals, updates: HostEvents
) -> tuple[Intervals, int]:
    """The steps without their evaluations, and how many held one.

    Args:
        operators: when the outermost ones of the training thread began, in order.
        takes: of batches.
        passes: backward passes.
    """
    at = np.sort(takes.start)
    step = np.searchsorted(steps.start, at, side="right") - 1
    inside = (step >= 0) & (at < steps.end[np.maximum(step, 0)])
    at, step = at[inside], step[inside]
    if len(at) == 0:
        return steps, 0
    until = np.minimum(np.append(at[1:], steps.end[-1]), steps.end[step])
    trains = _within(np.sort(np.concatenate((passes.start, updates.start))), at, until) > 0
    evaluates = ~trains & (_within(operators, at, until) >= LEAST_OPERATORS)
    start, end = steps.start.copy(), steps.end.copy()
    for number in np.unique(step[evaluates]).tolist():
        own = np.flatnonzero(step == number)
        training = own[trains[own]]
        if len(training) == 0:
            continue
        before, after = own[own < training[0]], own[own > training[-1]]
        if bool(evaluates[before].any()):
            start[number] = at[training[0]]
        if bool(evaluates[after].any()):
            end[number] = at[after[evaluates[after]][0]]
    changed = int(np.count_nonzero((start > steps.start) | (end < steps.end)))
    return (steps, 0) if changed > MOST_SHARE * len(steps) else (Intervals(start, end), changed)


def _within(moments: Ints, start: Ints, end: Ints) -> Ints:
    return np.searchsorted(moments, end) - np.searchsorted(moments, start)
