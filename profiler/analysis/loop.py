"""The shape of the user's loop: which stretches train, which evaluate, which lie between epochs.

In:  the `Stack` of a stretch of the training thread, and what is `Known` of the loop from before.
Out: `Loop`: the *keys* (calls that the loop itself makes) and the *stretches* that begin at some of them.

A stretch begins where the loop takes a batch (several takes with no work in between are one), where a loader is
exhausted, and, in loops that evaluate without a loader, where the forwards of an evaluation begin and end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from profiler.analysis import labels as lab
from profiler.analysis.stack import Bools, Ints, Stack
from profiler.record.vocabulary import DataWait, Flag, Forward, Kind, Name, Optimizer

Small = npt.NDArray[np.int8]


class Key(IntEnum):
    """What the loop calls."""

    DATA = 0
    COPY = 1  # host to device
    FORWARD = 2
    BACKWARD = 3
    STEP = 4  # of an optimizer
    MARK = 5  # profiler.step()


class Stretch(IntEnum):
    """What a stretch of the loop does."""

    TRAIN = 0
    EVALUATE = 1
    BETWEEN = 2  # a loader ran out, or a batch was taken and not used


class Begin(IntEnum):
    """What a stretch begins with."""

    HEAD = 0  # the events before the first that decides
    BATCH = 1
    EXHAUSTED = 2
    EVALUATION = 3  # forwards of an evaluation without a loader
    TRAINING = 4  # training that goes on without a batch from a loader


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier stretches of the same thread have told of the loop."""

    trained_loaders: frozenset[int] = frozenset()
    evaluation_loaders: frozenset[int] = frozenset()
    trained_roots: frozenset[int] = frozenset()
    fed: bool = False  # training took batches from a DataLoader
    explicit: bool = False  # profiler.step() was called
    stepped: bool = False  # an optimizer's step was seen
    updates_without_batch: int = 0  # optimizer steps since the last batch of training


@dataclass(frozen=True, slots=True)
class Loop:
    """Keys in time order, and the stretches they make."""

    kind: Small  # `Key` of each key
    at: Ints  # number of its event
    obj: npt.NDArray[np.uint16]
    grad: Bools  # forwards with gradients
    starts: Ints  # numbers of the events at which stretches begin; the first is 0
    begins: Small  # `Begin` of each stretch
    does: Small  # `Stretch` of each
    decided: int  # stretches that begin before this event are decided
    last_work: int  # number of the event of the last forward, backward or step; -1 for none
    known: Known  # with what was learnt here


def read(stack: Stack, known: Known, final: bool) -> Loop:
    """Find keys and stretches; with `final`, nothing comes after these events."""
    kind, at = _keys(stack)
    codes = stack.codes
    obj, flags, detail = codes.obj[at], codes.flags[at], codes.detail[at]
    closed = stack.partner[at]
    exhausted = (kind == Key.DATA) & (closed >= 0) & ((codes.flags[closed] & Flag.EXHAUSTED) != 0)
    grad = (kind == Key.FORWARD) & ((flags & Flag.GRAD) != 0)
    raw = _batch_starts(kind, exhausted, detail == DataWait.ITER, obj)
    known = _learn(known, kind, obj, grad, exhausted, detail, flags, raw)
    silent = (kind == Key.FORWARD) & ((flags & (Flag.GRAD | Flag.TRAINING)) == 0)
    silent &= np.isin(obj, list(known.trained_roots))
    begins = _begins(kind, exhausted, silent, obj, raw, known)
    starts = np.flatnonzero(begins)
    does = _judge(kind, obj, grad, begins, starts, known)
    work = np.flatnonzero((kind >= Key.FORWARD) & (kind <= Key.STEP))
    count = len(stack.events)
    last_work = int(at[work[-1]]) if len(work) else -1
    starts_at = np.concatenate(([0], at[starts])).astype(np.int64)
    followed = starts_at[starts_at <= last_work]
    return Loop(
        kind=kind,
        at=at,
        obj=obj,
        grad=grad,
        starts=starts_at,
        begins=np.concatenate(([Begin.HEAD], begins[starts])).astype(np.int8),
        does=does,
        decided=count if final else int(followed[-1]) if len(followed) else 0,
        last_work=last_work,
        known=known,
    )


def _keys(stack: Stack) -> tuple[Small, Ints]:
    """The loop's own calls: their kinds and the numbers of their events."""
    codes = stack.codes
    table = np.full(256, -1, dtype=np.int8)
    table[Name.DATA_WAIT] = Key.DATA
    table[Name.HOST_TO_DEVICE] = Key.COPY
    table[Name.FORWARD] = Key.FORWARD
    table[Name.BACKWARD] = Key.BACKWARD
    table[Name.OPTIMIZER] = Key.STEP
    kind = table[codes.name]
    is_key = stack.loop & (kind >= 0) & (stack.label < lab.FIRST_SPAN)
    is_key &= (kind != Key.STEP) | (codes.detail == Optimizer.STEP)
    marks = codes.kind == Kind.MARK
    kind[marks] = Key.MARK
    is_key |= marks
    is_key[: stack.entries] = False
    at = np.flatnonzero(is_key)
    return kind[at], at


def _batch_starts(kind: Small, exhausted: Bools, is_iter: Bools, obj: npt.NDArray[np.uint16]) -> Bools:
    """Keys at which the loop turns to the next batch."""
    starts = np.zeros(len(kind), dtype=bool)
    solid = np.flatnonzero((kind != Key.COPY) & (kind != Key.MARK))
    data = kind[solid] == Key.DATA
    goes_on = np.zeros(len(solid), dtype=bool)  # a take right after a take
    goes_on[1:] = data[1:] & data[:-1] & ~exhausted[solid[:-1]]
    again = is_iter[solid[1:]] & ~is_iter[solid[:-1]] & (obj[solid[1:]] == obj[solid[:-1]])
    goes_on[1:] &= ~again  # a new iterator over the same loader: the batch before was left unused
    starts[solid] = data & (~goes_on | exhausted[solid])
    return starts


def _learn(
    known: Known,
    kind: Small,
    obj: npt.NDArray[np.uint16],
    grad: Bools,
    exhausted: Bools,
    detail: npt.NDArray[np.uint8],
    flags: npt.NDArray[np.uint16],
    raw: Bools,
) -> Known:
    """Which loaders and roots train."""
    group = np.cumsum(raw, dtype=np.int64)
    groups = int(group[-1]) + 1 if len(group) else 1
    trains = _any(group, (kind == Key.BACKWARD) | (kind == Key.STEP), groups)
    forwards = _any(group, kind == Key.FORWARD, groups)
    graded = _any(group, grad, groups)
    feeds = _feeds_next(kind, grad, group, groups)
    takes = (kind == Key.DATA) & ~exhausted & (detail != DataWait.ITER)
    roots = grad & trains[group] & (detail != Forward.LOSS)
    trained_roots = known.trained_roots | _numbers(obj[roots])
    evaluates = forwards & ~trains & ~graded
    evaluation_loaders = known.evaluation_loaders | _numbers(obj[takes & evaluates[group]])
    silent = (kind == Key.FORWARD) & ((flags & (Flag.GRAD | Flag.TRAINING)) == 0)
    silent &= np.isin(obj, list(trained_roots))
    leads = _first_work_is(kind, silent, group, groups)
    # an evaluation that is left early runs on into training that takes no batches
    left_early = leads & trains
    fed = takes & (trains | feeds)[group]
    fed &= ~(left_early[group] & np.isin(obj, list(evaluation_loaders - known.trained_loaders)))
    trained_loaders = known.trained_loaders | _numbers(obj[fed])
    return Known(
        trained_loaders,
        evaluation_loaders,
        trained_roots,
        known.fed or bool(fed.any()),
        known.explicit or bool((kind == Key.MARK).any()),
        known.stepped or bool((kind == Key.STEP).any()),
        known.updates_without_batch,
    )


def _begins(
    kind: Small,
    exhausted: Bools,
    silent: Bools,
    obj: npt.NDArray[np.uint16],
    raw: Bools,
    known: Known,
) -> Small:
    """How a stretch begins at each key; 0 where none does."""
    begins = np.where(raw, np.where(exhausted, Begin.EXHAUSTED, Begin.BATCH), 0).astype(np.int8)
    solid = np.flatnonzero((kind != Key.COPY) & (kind != Key.MARK))
    if len(solid) == 0:
        return begins
    quiet = silent[solid]
    before = np.concatenate(([-1], solid[:-1]))
    none_before = before < 0
    after_end = exhausted[before] & ~none_before
    opens = quiet & (none_before | (kind[before] == Key.STEP) | after_end)
    left_early = ~none_before & (begins[before] == Begin.BATCH) & ~after_end & (kind[before] == Key.DATA)
    left_early &= quiet & np.isin(obj[before], list(known.evaluation_loaders - known.trained_loaders))
    # the first key after a run of an evaluation's forwards goes on with training
    run = np.cumsum(quiet & ~np.concatenate(([False], quiet[:-1])))
    splitting = np.zeros(int(run[-1]) + 1, dtype=bool)
    splitting[run[opens | left_early]] = True
    ends = np.zeros(len(solid), dtype=bool)
    ends[1:] = quiet[:-1] & ~quiet[1:] & splitting[run[:-1]]
    ends |= after_end & ~quiet
    ends &= kind[solid] != Key.DATA
    begins[_with_copies(kind, solid[opens])] = Begin.EVALUATION
    begins[_with_copies(kind, solid[ends])] = Begin.TRAINING
    return begins


def _with_copies(kind: Small, at: Ints) -> Ints:
    """Move back over the copies right before these keys: they bring their batches."""
    while True:
        back = (at > 0) & (kind[at - 1] == Key.COPY)
        if not bool(back.any()):
            return at
        at = at - back


def _judge(kind: Small, obj: npt.NDArray[np.uint16], grad: Bools, begins: Small, starts: Ints, known: Known) -> Small:
    """What each stretch does, the head first."""
    group = np.cumsum(begins != 0, dtype=np.int64)
    groups = len(starts) + 1
    trains = _any(group, (kind == Key.BACKWARD) | (kind == Key.STEP), groups)
    forwards = _any(group, kind == Key.FORWARD, groups)
    graded = _any(group, grad, groups)
    feeds = _feeds_next(kind, grad, group, groups)
    loader = np.zeros(groups, dtype=np.int64)
    takes = np.flatnonzero(kind == Key.DATA)
    loader[group[takes]] = obj[takes]  # the last of a stretch's takes wins
    trained = np.isin(loader, list(known.trained_loaders))
    how = np.concatenate(([Begin.HEAD], begins[starts]))
    does = np.full(groups, Stretch.TRAIN, dtype=np.int8)
    batch = how == Begin.BATCH
    does[batch & forwards & ~trains & (~graded | ~trained) & ~feeds] = Stretch.EVALUATE
    if not known.explicit:
        does[batch & ~forwards & ~trains] = Stretch.BETWEEN
    does[how == Begin.EXHAUSTED] = Stretch.BETWEEN
    does[how == Begin.EVALUATION] = Stretch.EVALUATE
    return does


def _any(group: Ints, which: Bools, groups: int) -> Bools:
    """For each group, whether any of its keys is one of these."""
    found = np.zeros(groups, dtype=bool)
    found[group[which]] = True
    return found


def _feeds_next(kind: Small, grad: Bools, group: Ints, groups: int) -> Bools:
    """Groups that end in a forward whose backward comes after the next batch was taken (prefetching loops)."""
    feeds = np.zeros(groups, dtype=bool)
    work = np.flatnonzero((kind >= Key.FORWARD) & (kind <= Key.STEP))
    crosses = grad[work[:-1]] & (kind[work[1:]] == Key.BACKWARD) & (group[work[:-1]] != group[work[1:]])
    feeds[group[work[:-1][crosses]]] = True
    return feeds


def _first_work_is(kind: Small, which: Bools, group: Ints, groups: int) -> Bools:
    """For each group, whether its first forward, backward or step is one of these."""
    first = np.zeros(groups, dtype=bool)
    work = np.flatnonzero((kind >= Key.FORWARD) & (kind <= Key.STEP))
    first[group[work[::-1]]] = which[work[::-1]]  # written backwards, so that the first one stays
    return first


def _numbers(obj: npt.NDArray[np.uint16]) -> frozenset[int]:
    return frozenset(np.unique(obj).tolist())
