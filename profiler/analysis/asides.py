"""What a stretch of the training thread holds beside its steps: spans, readings of memory, marks.

In:  the `Stack` of the stretch and the owner of each moment.
Out: columns of rows; times are perf_counter nanoseconds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from profiler.analysis import labels as lab
from profiler.analysis import stack
from profiler.analysis.stack import Ints, Labels, Stack
from profiler.record.reader import Events
from profiler.record.vocabulary import Kind, Name

WITHOUT_GRAPH, WITH_GRAPH = 1, 2  # bits: an evaluation's forwards that built no graph for backward, and that did
Columns = dict[str, npt.NDArray[np.int64]]
Evaluation = tuple[int, int, int, int, int]  # first event, last event, start ns, end ns, bits of its forwards


def spans(
    built: Stack,
    label: Labels,
    evaluations: list[Evaluation],
    done: int,
    final: bool,
    step: Ints,
    steps_before: int,
) -> Columns:
    """Spans that ended in this stretch: their label, start, end, detail and the number of steps before them."""
    pushes = np.flatnonzero(built.push & (built.label >= lab.FIRST_SPAN) & (built.label < lab.OUTSIDE))
    above = np.where(pushes > 0, built.top[pushes - 1], -1)
    pushes = pushes[(above < 0) | (built.label[above] != built.label[pushes])]
    closed = built.partner[pushes]
    ended = (closed >= 0) & (closed < done) | final
    pushes, closed = pushes[ended], closed[ended]
    time = built.time
    stop = np.where(closed >= 0, time[closed], time[-1] if len(time) else 0)
    found = [
        (
            int(built.label[push]),
            int(time[push]),
            int(until),
            int(built.codes.detail[push]),
            int(step[push]) + 1 + steps_before,
        )
        for push, until in zip(pushes.tolist(), stop.tolist(), strict=True)
    ]
    found += [
        (lab.EVALUATION, start, until, graphs, int(step[begin]) + 1 + steps_before)
        for begin, _, start, until, graphs in evaluations
    ]
    table = np.array(sorted(found, key=lambda row: row[2]), dtype=np.int64).reshape(-1, 5)
    return {
        name: table[:, number] for number, name in enumerate(("label", "start_ns", "end_ns", "detail", "steps_before"))
    }


def values(events: Events, raw: stack.Codes, place: Ints, built: Stack, label: Labels) -> Columns:
    """Memory readings on this thread, with the stage that ended or began right before them."""
    at = np.flatnonzero(raw.kind[: len(events)] == Kind.VALUE)
    if len(at) == 0:
        return {"name": np.empty(0, np.int64), "label": np.empty(0, np.int64), "value": np.empty(0, np.int64)}
    own = np.where(built.push, label, np.where(built.partner >= 0, label[built.partner], lab.OUTSIDE))
    by_origin = np.full(len(place) + 1, lab.OUTSIDE, dtype=np.int64)
    real = built.origin >= 0
    by_origin[built.origin[real]] = own[real]
    before = np.searchsorted(place, at, side="left") - 1
    return {
        "name": raw.name[at].astype(np.int64),
        "label": by_origin[before],
        "value": events[at, 1].astype(np.int64),
    }


def marks(events: Events, raw: stack.Codes) -> dict[int, int]:
    """When the recording was attached, switched off and ended."""
    at = np.flatnonzero((raw.kind[: len(events)] == Kind.MARK) & (raw.name[: len(events)] != Name.STEP))
    return {int(raw.name[number]): int(events[number, 1]) for number in at.tolist()}
