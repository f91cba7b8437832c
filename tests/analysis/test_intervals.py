"""Interval algebra against sets of moments."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from profiler.analysis.intervals import EMPTY, Intervals, one, union

pairs = st.lists(st.tuples(st.integers(-20, 40), st.integers(-20, 40)), max_size=12)


def intervals(found: list[tuple[int, int]]) -> Intervals:
    table = np.array(found, dtype=np.int64).reshape(-1, 2)
    return union(table[:, 0], table[:, 1])


def moments(found: list[tuple[int, int]]) -> set[int]:
    return {at for start, end in found for at in range(start, end)}


def held(found: Intervals) -> set[int]:
    return moments(list(zip(found.start.tolist(), found.end.tolist(), strict=True)))


def is_normal(found: Intervals) -> bool:
    return bool((found.end > found.start).all() and (found.start[1:] >= found.end[:-1]).all())


@given(pairs)
def test_a_union_holds_each_moment_once(found: list[tuple[int, int]]) -> None:
    made = intervals(found)
    assert is_normal(made)
    assert held(made) == moments(found)
    assert made.total == len(moments(found))


@given(pairs, pairs)
def test_sets_of_time_are_sets(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    one_set, other = intervals(first), intervals(second)
    for made, expected in (
        (one_set.intersect(other), moments(first) & moments(second)),
        (one_set.unite(other), moments(first) | moments(second)),
        (one_set.subtract(other), moments(first) - moments(second)),
    ):
        assert is_normal(made)
        assert held(made) == expected


@given(pairs, st.integers(-25, 45), st.integers(0, 30))
def test_a_set_and_its_complement_fill_the_window(found: list[tuple[int, int]], first: int, length: int) -> None:
    made, last = intervals(found), first + length
    inside, outside = made.clip(first, last), made.complement(first, last)
    assert inside.total + outside.total == length
    assert held(inside) == {at for at in moments(found) if first <= at < last}
    assert not held(inside) & held(outside)


@given(pairs, st.lists(st.tuples(st.integers(-25, 45), st.integers(0, 20)), max_size=6))
def test_windows_measure_what_lies_in_them(found: list[tuple[int, int]], windows: list[tuple[int, int]]) -> None:
    made = intervals(found)
    start = np.array([first for first, _ in windows], dtype=np.int64)
    end = np.array([first + length for first, length in windows], dtype=np.int64)
    expected = [len([at for at in moments(found) if low <= at < high]) for low, high in zip(start, end, strict=True)]
    assert made.within(start, end).tolist() == expected
    assert made.holds(start).tolist() == [low in moments(found) for low in start.tolist()]


def test_nothing_has_no_length() -> None:
    assert EMPTY.total == 0
    assert EMPTY.bounds == (0, 0)
    assert one(5, 5).total == one(7, 3).total == 0
    assert one(2, 9).subtract(EMPTY).total == 7
