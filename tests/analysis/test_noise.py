"""Noise is told from signal: the truth here is in how the series were made."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.analysis import noise


def ones(count: int) -> np.ndarray:
    return np.ones(count, dtype=np.int64)


def usable(count: int) -> np.ndarray:
    return np.ones(count, dtype=bool)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_the_median_of_equal_weights_is_the_usual_one(values: list[float]) -> None:
    assert noise.median(np.array(values), ones(len(values))) == pytest.approx(statistics.median(values))


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 9)), min_size=20, max_size=60), st.floats(0.1, 0.9))
def test_a_weight_stands_for_so_many_equal_values(rows: list[tuple[int, int]], share: float) -> None:
    values = np.array([value for value, _ in rows], dtype=np.float64)
    weights = np.array([weight for _, weight in rows])
    repeated = np.sort(np.repeat(values, weights))
    found = noise.quantile(values, weights, share)
    place = share * len(repeated)
    # between weighted rows the quantile is interpolated, so it lies among the neighbours that a weight spans
    low, high = max(int(place) - 10, 0), min(int(place) + 10, len(repeated) - 1)
    assert repeated[low] <= found <= repeated[high]


@pytest.mark.parametrize("slow", [0, 1, 5, 40])
def test_warm_up_ends_where_the_steps_become_steady(slow: int) -> None:
    random = np.random.default_rng(1)
    walls = random.normal(100, 2, 300)
    walls[:slow] += np.linspace(400, 60, slow)
    assert noise.warm_up(walls, ones(300), usable(300)) == max(slow, 1)


def test_warm_up_is_at_most_a_third() -> None:
    walls = np.where(np.arange(90) < 44, 500.0, 100.0)
    assert noise.warm_up(walls, ones(90), usable(90)) == 30


def test_a_stall_right_after_warm_up_does_not_prolong_it_to_the_next_stall() -> None:
    walls = np.full(300, 100.0)
    walls[0] = 900
    walls[[50, 80]] = 700
    assert noise.warm_up(walls, ones(300), usable(300)) == 1


def test_steps_with_compilation_are_warm_up() -> None:
    walls, good = np.full(100, 100.0), usable(100)
    good[[0, 4]] = False
    assert noise.warm_up(walls, ones(100), good) == 1
    good[[1, 2, 3]] = False
    assert noise.warm_up(walls, ones(100), good) == 5


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_very_short_runs_keep_a_step_to_measure(count: int, expected: int) -> None:
    assert noise.warm_up(np.full(count, 100.0), ones(count), usable(count)) == expected


def test_the_interval_of_the_median_covers_it_95_times_in_100() -> None:
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        values = random.exponential(1.0, 101)
        half = 0.98 / np.sqrt(101)
        low, high = (noise.quantile(values, ones(101), share) for share in (0.5 - half, 0.5 + half))
        covered += low <= np.log(2) <= high
        assert noise.median_noise(values, ones(101)) == pytest.approx((high - low) / 2)
    assert 0.92 <= covered / 400 <= 0.985


def test_a_steady_series_and_slow_swings_are_no_drift() -> None:
    random = np.random.default_rng(3)
    steady = random.normal(100, 5, 900)
    swings = 100 + 10 * np.sin(np.arange(900) / 20) + random.normal(0, 1, 900)
    assert noise.drift_share(steady, ones(900)) is None
    assert noise.drift_share(swings, ones(900)) is None


def test_a_slow_rise_is_drift_with_its_size() -> None:
    random = np.random.default_rng(3)
    values = np.linspace(100, 130, 900) + random.normal(0, 2, 900)
    # medians of the outer thirds of a line lie at a sixth and at five sixths of it
    assert noise.drift_share(values, ones(900)) == pytest.approx(125 / 105 - 1, abs=0.01)
    assert noise.drift_share(values[:20], ones(20)) is None


def test_the_slope_is_that_of_the_line_whatever_a_few_points_do() -> None:
    at = np.arange(200.0)
    values = 3.0 * at + 7
    values[::17] = 1e9
    assert noise.theil_sen(at, values) == pytest.approx(3.0, abs=0.2)


def test_chance_rises_once_in_a_hundred_and_a_real_rise_always() -> None:
    random = np.random.default_rng(5)
    assert sum(noise.rises(random.normal(0, 1, 100)) for _ in range(1000)) <= 25
    assert noise.rises(np.linspace(0, 1, 100))
    assert not noise.rises(np.linspace(1, 0, 100))
    assert not noise.rises(np.zeros(100))
