"""Who owns each moment: held against a plain walk over the events, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.analysis import labels as lab
from profiler.analysis import stack
from profiler.record.reader import NO_EVENTS
from profiler.record.vocabulary import DataWait, Forward, Kind, Name, Optimizer, code

NODES = {
    (Name.DATA_WAIT, DataWait.NEXT): lab.NEXT,
    (Name.FORWARD, Forward.MODULE): lab.MODULE,
    (Name.FORWARD, Forward.LOSS): lab.LOSS,
    (Name.BACKWARD, 0): lab.BACKWARD,
    (Name.OPTIMIZER, Optimizer.STEP): lab.STEP,
    (Name.OPTIMIZER, Optimizer.CLIP): lab.CLIP,
    (Name.HOST_TO_DEVICE, 0): lab.HOST_TO_DEVICE,
    (Name.CHECKPOINT, 1): lab.CHECKPOINT,
    (Name.COMPILE, 0): lab.COMPILE,
    (Name.USER_STAGE, 0): lab.FIRST_USER,
}

trees = st.recursive(
    st.tuples(st.sampled_from(list(NODES)), st.just(())),
    lambda inner: st.tuples(st.sampled_from(list(NODES)), st.lists(inner, max_size=3).map(tuple)),
    max_leaves=12,
)


def written(forest: list[object]) -> tuple[list[tuple[int, int]], dict[int, int]]:
    """Events of a forest of nested calls, and the time that a plain walk gives to each label."""
    events: list[tuple[int, int]] = []
    owned: dict[int, int] = {}
    clock = [1000]

    def spend(label: int) -> None:
        length = 1 + (clock[0] * 37) % 11
        owned[label] = owned.get(label, 0) + length
        clock[0] += length

    def walk(node: tuple[tuple[int, int], tuple[object, ...]], around: int) -> None:
        (name, detail), children = node
        label = NODES[name, detail]
        if around >= lab.FIRST_SPAN and label < lab.FIRST_SPAN:
            label = around
        elif around == lab.BACKWARD and name == Name.FORWARD:
            label = lab.BACKWARD
        elif name == Name.USER_STAGE and around < lab.OTHER:
            label = around
        events.append((code(Kind.PUSH, name, detail), clock[0]))
        spend(label)
        for child in children:
            walk(child, label)
            spend(label)
        events.append((code(Kind.POP, name, detail), clock[0]))

    for node in forest:
        walk(node, lab.OTHER)
        spend(lab.OTHER)
    return events, owned


def totals(built: stack.Stack, end: int) -> dict[int, int]:
    time = np.append(built.time, end)
    found = np.bincount(built.label, weights=np.diff(time))
    return {label: int(total) for label, total in enumerate(found.tolist()) if total}


@settings(max_examples=300, deadline=None)
@given(st.lists(trees, min_size=1, max_size=6))
def test_every_nanosecond_goes_where_a_plain_walk_puts_it(forest: list[object]) -> None:
    events, owned = written(forest)
    built = stack.build(np.array(events, dtype=np.uint64), NO_EVENTS, {0: lab.FIRST_USER})
    end = events[0][1] + sum(owned.values())
    if not built.repaired:  # a batch fetched inside a model is taken for a lost POP, by design
        assert totals(built, end) == owned
    assert sum(totals(built, end).values()) == sum(owned.values())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(trees, min_size=1, max_size=6),
    st.lists(st.integers(0, 200), max_size=5, unique=True),
)
def test_lost_events_leave_a_balanced_stack_and_lose_no_time(forest: list[object], lost: list[int]) -> None:
    events = written(forest)[0]
    kept = [event for number, event in enumerate(events) if number not in lost]
    if not kept:
        return
    built = stack.build(np.array(kept, dtype=np.uint64), NO_EVENTS, {0: lab.FIRST_USER})
    if len(built.events) == 0:  # nothing but POPs that close nothing
        return
    closed = np.flatnonzero(built.codes.kind == Kind.POP)
    assert (built.codes.name[closed] == built.codes.name[built.partner[closed]]).all()
    first, last = int(built.events[0, 1]), int(built.events[-1, 1])
    assert sum(totals(built, last).values()) == last - first


@settings(max_examples=200, deadline=None)
@given(st.lists(trees, min_size=2, max_size=6), st.data())
def test_a_stack_carried_over_a_border_owns_the_same_time(forest: list[object], data: st.DataObject) -> None:
    events, _ = written(forest)
    whole = stack.build(np.array(events, dtype=np.uint64), NO_EVENTS, {0: lab.FIRST_USER})
    if whole.repaired:
        return
    border = data.draw(st.integers(1, len(events) - 1))
    first = stack.build(np.array(events[:border], dtype=np.uint64), NO_EVENTS, {0: lab.FIRST_USER})
    rest = stack.build(np.array(events[border:], dtype=np.uint64), whole.open_at(border), {0: lab.FIRST_USER})
    assert first.label.tolist() == whole.label[:border].tolist()
    assert rest.label[rest.entries :].tolist() == whole.label[border:].tolist()


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_nearly_nothing_are_stacks_too(count: int) -> None:
    built = stack.build(np.array([(code(Kind.POP, Name.FORWARD), 5)] * count, np.uint64).reshape(-1, 2), NO_EVENTS, {})
    assert len(built.events) == 0


def test_the_fields_of_a_code_word_come_apart_as_they_were_put_together() -> None:
    word = code(Kind.PUSH, Name.OPTIMIZER, Optimizer.SCHEDULER, 513, 9)
    fields = stack.fields(np.array([[word, 1]], dtype=np.uint64))
    told = [int(column[0]) for column in (fields.kind, fields.name, fields.detail, fields.obj, fields.flags)]
    assert told == [Kind.PUSH, Name.OPTIMIZER, Optimizer.SCHEDULER, 513, 9]
