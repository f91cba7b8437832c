"""One stretch of the training thread, from events to rows of the step table.

In:  raw events from the start of a step (or from outside of one), and the `Carry` of the stretch before.
Out: `Block`: rows of the complete steps, spans, exact sums, and where the unfinished step begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntFlag

import numpy as np

from profiler.analysis import asides, cut, exchanges, loop, stack
from profiler.analysis import labels as lab
from profiler.analysis.asides import Columns, Evaluation
from profiler.analysis.loop import Key, Known, Loop, Stretch
from profiler.analysis.stack import Bools, Ints, Labels, Stack
from profiler.record.reader import NO_EVENTS, Events
from profiler.record.vocabulary import STAGE_ORDER, DataWait, Flag, Forward, Kind, Name


class Happened(IntFlag):
    """What else happened in a step, or right before it."""

    INSTRUMENTED = 1  # something of ours ran in it: not in the statistics
    COMPILED = 2  # a graph was compiled in it: not in the statistics
    ITERATOR = 4  # an epoch began: the loader's iterator was made
    RAISED = 8
    AFTER_EVALUATION = 16
    AFTER_CHECKPOINT = 32


LEFT_OUT = Happened.INSTRUMENTED | Happened.COMPILED


@dataclass(frozen=True, slots=True)
class Carry:
    """What a stretch hands to the next."""

    open_events: Events = field(default_factory=NO_EVENTS.copy)
    step_open: bool = False
    known: Known = field(default_factory=Known)
    steps: int = 0  # complete so far
    happened: int = 0  # to the step that begins now


@dataclass(frozen=True, slots=True)
class Moments:
    """Who owned the training thread when: for events of other tracks."""

    time_ns: Ints
    label: Labels
    step: Ints  # number of the step, -1 outside

    def then(self, later: Moments, most: int) -> Moments:
        """The newest of these and of those that follow them."""
        if len(self.time_ns) == 0:
            return later
        after = later.time_ns >= self.time_ns[-1]  # without what was open before: that is among these
        pairs = (
            (self.time_ns, later.time_ns),
            (self.label, later.label),
            (self.step, later.step),
        )
        time, label, step = (np.concatenate((mine, theirs[after]))[-most:] for mine, theirs in pairs)
        return Moments(time, label, step)

    def at(self, when_ns: Ints) -> tuple[Ints, Ints]:
        """Label and step at these times; `OUTSIDE` and -1 before the first moment."""
        if len(self.time_ns) == 0:
            return np.full(len(when_ns), lab.OUTSIDE), np.full(len(when_ns), -1)
        place = np.searchsorted(self.time_ns, when_ns, side="right") - 1
        early = place < 0
        return (
            np.where(early, lab.OUTSIDE, self.label[place]).astype(np.int64),
            np.where(early, -1, self.step[place]).astype(np.int64),
        )


NO_MOMENTS = Moments(np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Block:
    """What a stretch came to. Times are perf_counter nanoseconds."""

    consumed: int  # raw events that are done with
    until_ns: int | None  # everything before this moment is done with; None: everything
    carry: Carry
    steps: Columns
    ranges: Ints  # (steps, 2): each step's raw events
    spans: Columns
    calls: Ints  # per stage, within the steps
    moments: Moments
    values: Columns  # label and value of memory readings on this thread
    marks: dict[int, int]  # ATTACHED, ENDED, DISABLED → when
    pauses: int
    pause_ns: int
    repaired: bool
    cut_short: bool  # the last step had no update: it is not counted


@dataclass(frozen=True, slots=True)
class Said:
    """What notes say about the numbers in events."""

    user_labels: Mapping[int, int] = field(default_factory=dict)  # number of a `USER_STAGE` → label
    loss_roots: frozenset[int] = frozenset()  # roots that return the loss itself


def process(events: Events, carry: Carry, said: Said, final: bool) -> Block | None:
    """Cut a stretch; None when it holds no complete step and more events are to come."""
    raw = stack.fields(events)
    of_stack = (raw.kind == Kind.PUSH) | (raw.kind == Kind.POP)
    of_stack |= (raw.kind == Kind.MARK) & (raw.name == Name.STEP)
    place = np.flatnonzero(of_stack)
    built = stack.build(_in_order(events[place]), carry.open_events, said.user_labels)
    shape = loop.read(built, carry.known, final)
    cuts = cut.cut(shape, built.entries, carry.step_open)
    end = _consumed(shape, built, cuts.at, carry, final)
    if end is None:
        return None
    label = with_losses(built, said.loss_roots)
    return _assemble(events, raw, place, built, shape, cuts, label, end, carry, final)


def _in_order(events: Events) -> Events:
    """A thread's clock never runs backwards; events that say so are moved up."""
    time = events[:, 1]
    if len(time) > 1 and bool((time[1:] < time[:-1]).any()):
        events = events.copy()
        events[:, 1] = np.maximum.accumulate(time)
    return events


def _consumed(shape: Loop, built: Stack, at: Ints, carry: Carry, final: bool) -> int | None:
    """The event up to which the stretch is done; None for no progress."""
    if final:
        return len(built.events)
    if len(at) and at[-1] > built.entries:
        return int(at[-1])
    if carry.step_open or len(at):
        return None
    # nothing trains here: what was only evaluated need not be kept
    return shape.decided if shape.decided > built.entries else None


def with_losses(built: Stack, loss_roots: frozenset[int]) -> Labels:
    """Give the time between a forward with gradients and its backward to the loss.

    Functional losses have no hook: what runs there, with nothing but forwards and zero_grad in between, is one.
    After a root that is or returns a loss, the loss is there already: what follows is the loop's own.
    """
    codes, label = built.codes, built.label
    around = np.concatenate(([-1], built.top[:-1]))
    in_closure = (around >= 0) & (label[around] == lab.STEP) & built.loop[around]
    # a collective between the loss and its backward ends no loss
    calls = np.flatnonzero(built.push & (built.loop | in_closure) & (codes.name != Name.COMMUNICATION))
    if len(calls) == 0:
        return label
    name = codes.name[calls]
    mild = label[calls]
    graded = (name == Name.FORWARD) & ((codes.flags[calls] & Flag.GRAD) != 0)
    chained = (name == Name.FORWARD) | (mild == lab.ZERO_GRAD) | (mild == lab.SCALER)
    number = np.cumsum(~chained)
    # a chain's end is the next call that is not of a chain
    others = np.flatnonzero(~chained)
    ends = np.zeros(int(number[-1]) + 1, dtype=bool)
    ends[: len(others)] = name[others] == Name.BACKWARD
    first = np.full(int(number[-1]) + 1, len(calls), dtype=np.int64)
    with_grad = np.flatnonzero(graded)
    np.minimum.at(first, number[with_grad], with_grad)
    place = np.arange(len(calls))
    whole = (name == Name.FORWARD) & (
        (codes.detail[calls] == Forward.LOSS) | np.isin(codes.obj[calls], list(loss_roots))
    )
    done = np.full(int(number[-1]) + 1, len(calls), dtype=np.int64)
    np.minimum.at(done, number[whole], place[whole])
    loses = chained & ends[number] & (place >= first[number]) & (place < done[number])
    if not bool(loses.any()):
        return label
    owner = np.searchsorted(calls, np.arange(len(label)), side="right") - 1
    idle = (label >= lab.OTHER) & (label < lab.FIRST_SPAN) | (label == lab.STEP) & built.loop[built.top]
    chosen = (owner >= 0) & loses[owner] & idle
    result: Labels = label.copy()
    result[chosen] = lab.LOSS
    return result


def _assemble(
    events: Events,
    raw: stack.Codes,
    place: Ints,
    built: Stack,
    shape: Loop,
    cuts: cut.Cuts,
    label: Labels,
    end: int,
    carry: Carry,
    final: bool,
) -> Block:
    count = len(built.events)
    time = built.time
    in_training, evaluations = _stretches(built, shape, end)
    at = cuts.at[cuts.at < end] if not final else cuts.at
    complete = len(at)
    last_event = count
    if final and complete:
        if cuts.last_is_complete and shape.does[-1] == Stretch.TRAIN:  # the last step ends with its last call
            pops = np.flatnonzero((built.codes.kind == Kind.POP) & in_training)
            last_event = int(pops[-1]) if len(pops) else count
        complete -= not cuts.last_is_complete
    step = np.zeros(count, dtype=np.int64)
    step[at] = 1
    step = np.cumsum(step) - 1
    step[end:] = complete
    inside = (step >= 0) & (step < complete) & in_training & (label < lab.FIRST_SPAN)
    inside[last_event:] = False
    inside[: built.entries] = False
    step_of = np.where(step < complete, step, -1)
    first_of = at[:complete]
    places = np.concatenate((place, [len(events)]))
    ranges = _raw_ranges(built, places, at, complete, count if final else end)
    happened, next_happened = _happened(built, shape, label, in_training, step, complete, carry.happened)
    columns = _sums(built, label, inside, step_of, complete)
    columns |= exchanges.columns(built, label, inside, step_of, complete, time[first_of])
    columns["index"] = carry.steps + np.arange(complete, dtype=np.int64)
    columns["start_ns"] = time[first_of]
    columns["flags"] = happened
    columns["events"] = ranges[:, 1] - ranges[:, 0]
    pauses = _add_pauses(columns, events, raw, int(places[_origin(built, end)]), time, np.where(inside, step_of, -1))
    owned = np.where(in_training & (label != lab.OUTSIDE), label, np.where(label >= lab.FIRST_SPAN, label, lab.OUTSIDE))
    for begin, stop, *_ in evaluations:
        owned[begin : stop + 1] = np.where(
            label[begin : stop + 1] >= lab.FIRST_SPAN, label[begin : stop + 1], lab.EVALUATION
        )
    moment_step = np.where(inside, step_of + carry.steps, -1)
    done = end if not final else count
    consumed = int(places[_origin(built, end)]) if not final else len(events)
    spans = asides.spans(built, label, evaluations, done, final, step, carry.steps)
    return Block(
        consumed=consumed,
        until_ns=None if final else int(time[end]),
        carry=replace(
            carry,
            open_events=built.open_at(end) if not final else NO_EVENTS,
            step_open=bool(len(cuts.at)) and not final,
            known=cuts.known,
            steps=carry.steps + complete,
            happened=next_happened,
        ),
        steps=columns,
        ranges=ranges,
        spans=spans,
        calls=_calls(built, label, inside),
        moments=Moments(time[:done], owned[:done], moment_step[:done]),
        values=asides.values(events[:consumed], raw, place, built, label),
        marks=asides.marks(events[:consumed], raw),
        pauses=pauses[0],
        pause_ns=pauses[1],
        repaired=built.repaired,
        cut_short=final and len(at) > 0 and not cuts.last_is_complete and not cuts.known.explicit,
    )


def _origin(built: Stack, end: int) -> int:
    """Number, among the events that came in, of the first at or after `end`; their count when there is none."""
    later = built.origin[end:]
    later = later[later >= 0]
    return int(later[0]) if len(later) else len(built.origin) and int(built.origin.max()) + 1


def _stretches(built: Stack, shape: Loop, end: int) -> tuple[Bools, list[Evaluation]]:
    """Which events lie in stretches that train, and the evaluations: (first event, last event, start ns, end ns)."""
    count = len(built.events)
    lengths = np.diff(np.concatenate((shape.starts, [count])))
    does = np.repeat(shape.does, lengths)
    in_training: Bools = does == Stretch.TRAIN
    evaluations: list[Evaluation] = []
    time = built.time
    stage_pops = (built.codes.kind == Kind.POP) & (built.partner >= 0)
    stage_pops &= built.label[built.partner] < lab.FIRST_SPAN
    quiet = shape.does != Stretch.TRAIN
    edges = np.flatnonzero(np.diff(np.concatenate(([False], quiet, [False])).astype(np.int8)))
    bounds = np.concatenate((shape.starts, [count]))
    for first, stop in edges.reshape(-1, 2).tolist():
        evaluating = np.flatnonzero(shape.does[first:stop] == Stretch.EVALUATE)
        if len(evaluating) == 0:
            continue
        begin = int(bounds[first + int(evaluating[0])])
        ended = np.flatnonzero(stage_pops[begin : int(min(bounds[stop], end))])
        last = begin + int(ended[-1]) if len(ended) else begin
        if begin < end:
            evaluations.append((begin, last - 1, int(time[begin]), int(time[last]), _graphs(built, begin, last)))
    return in_training, evaluations


def _graphs(built: Stack, first: int, last: int) -> int:
    """Whether forwards between two events built graphs for a backward pass, as bits."""
    codes = built.codes
    calls = np.flatnonzero(built.push[first : last + 1] & (codes.name[first : last + 1] == Name.FORWARD)) + first
    graded = (codes.flags[calls] & Flag.GRAD) != 0
    return asides.WITH_GRAPH * bool(graded.any()) | asides.WITHOUT_GRAPH * bool((~graded).any())


def _sums(built: Stack, label: Labels, inside: Bools, step: Ints, complete: int) -> Columns:
    """Time by part of each complete step: exact, since each interval has one owner."""
    columns: Columns = {}
    duration = np.zeros(len(label), dtype=np.int64)
    duration[:-1] = np.diff(built.time)
    at = np.flatnonzero(inside)
    cell = step[at] * lab.LABELS + label[at]
    # below 2**53 ns (104 days in one cell) the float sums are exact integers
    table = np.bincount(cell, weights=duration[at], minlength=complete * lab.LABELS)
    parts = (
        table.astype(np.int64).reshape(-1, lab.LABELS)[:complete] if complete else np.zeros((0, lab.LABELS), np.int64)
    )
    for part in np.flatnonzero(parts.any(axis=0)).tolist():
        columns[f"part_{part}"] = parts[:, part]
    columns["wall_ns"] = parts.sum(axis=1)
    codes = built.codes
    pushes = built.push & (step >= 0)
    pushes[: built.entries] = False
    backward = pushes & (codes.name == Name.BACKWARD) & (label == lab.BACKWARD)
    above = np.concatenate(([-1], built.top[:-1]))
    backward &= (above < 0) | (label[above] != lab.BACKWARD)
    columns["micro_batches"] = np.bincount(step[backward], minlength=complete)[:complete].astype(np.int64)
    takes = pushes & built.loop & (codes.name == Name.DATA_WAIT) & (codes.detail == DataWait.NEXT) & inside
    columns["batches"] = np.bincount(step[takes], minlength=complete)[:complete].astype(np.int64)
    return columns


def _calls(built: Stack, label: Labels, inside: Bools) -> Ints:
    """How often each stage was entered in the steps."""
    at = np.flatnonzero(built.push & inside)
    stage = lab.STAGE_OF[label[at]]
    above = built.top[at - 1]
    around = np.where((at > 0) & (above >= 0), label[above], lab.OTHER)
    outer = np.where(around < lab.LABELS, lab.STAGE_OF[np.minimum(around, lab.LABELS - 1)], -1)
    entered = (stage != outer) | (stage == len(STAGE_ORDER) - 1)
    return np.bincount(stage[entered], minlength=len(STAGE_ORDER)).astype(np.int64)


def _happened(
    built: Stack, shape: Loop, label: Labels, in_training: Bools, step: Ints, complete: int, carried: int
) -> tuple[Ints, int]:
    """Flags of each complete step, and those of the step that begins after them."""
    flags = np.zeros(complete + 2, dtype=np.int64)
    flags[0] = carried
    codes = built.codes
    within = (step >= 0) & in_training
    for word, flag in ((lab.INSTRUMENT, Happened.INSTRUMENTED), (lab.COMPILE, Happened.COMPILED)):
        hit = np.unique(step[within & (label == word)])
        flags[hit[hit <= complete]] |= flag
    raised = (codes.kind == Kind.POP) & ((codes.flags & Flag.RAISED) != 0) & within
    hit = np.unique(step[raised])
    flags[hit[hit <= complete]] |= Happened.RAISED
    opens = shape.at[(shape.kind == Key.DATA) & (codes.detail[shape.at] == DataWait.ITER)]
    hit = np.unique(step[opens][step[opens] >= 0])
    flags[hit[hit <= complete]] |= Happened.ITERATOR
    stretch_does = np.repeat(shape.does, np.diff(np.concatenate((shape.starts, [len(label)]))))
    evaluated = (stretch_does == Stretch.EVALUATE) | (label == lab.EVALUATION)
    for which, flag in (
        (evaluated, Happened.AFTER_EVALUATION),
        (label == lab.CHECKPOINT, Happened.AFTER_CHECKPOINT),
    ):
        hit = np.unique(step[which]) + 1  # step -1 is what lies before the first
        flags[hit[hit <= complete]] |= flag
    follows = int(flags[complete]) & (Happened.AFTER_EVALUATION | Happened.AFTER_CHECKPOINT)
    return flags[:complete], follows


def _add_pauses(
    columns: Columns, events: Events, raw: stack.Codes, consumed: int, time: Ints, step: Ints
) -> tuple[int, int]:
    """Lay garbage collection over the steps; the number of pauses and their sum."""
    complete = len(columns["wall_ns"])
    at = np.flatnonzero((raw.kind == Kind.PAUSE) & (raw.name == Name.GARBAGE_COLLECTION))
    at = at[at < consumed]
    if len(at) == 0:
        return 0, 0
    length = (events[at, 0] >> np.uint64(24)).astype(np.int64)
    when = np.searchsorted(time, events[at, 1].astype(np.int64), side="right") - 1
    owner = np.where(when >= 0, step[when], -1)
    within = owner >= 0
    columns["gc_ns"] = np.bincount(owner[within], weights=length[within], minlength=complete).astype(np.int64)
    return int(np.count_nonzero(within)), int(length[within].sum())


def _raw_ranges(built: Stack, places: Ints, at: Ints, complete: int, end: int) -> Ints:
    """The raw events of each complete step, as (first, one past the last)."""
    edges = np.concatenate((at, [end]))[: complete + 1] if complete else np.empty(0, dtype=np.int64)
    known = built.origin
    later = np.concatenate((known, [len(places) - 1]))
    # an event that repair put in stands for the next one that was recorded
    for index in np.flatnonzero(later[:-1] < 0)[::-1]:
        later[index] = later[index + 1]
    raw = places[later[edges]]
    return np.stack((raw[:-1], raw[1:]), axis=1) if complete else np.zeros((0, 2), dtype=np.int64)
