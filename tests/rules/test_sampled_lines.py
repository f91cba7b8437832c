"""Sampled lines: how far a time may be off, and how functions under one line add up."""

from __future__ import annotations

import random
from statistics import quantiles

import pytest
from facts_builder import line

from profiler.rules.lines import by_line, sampling_error


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_six_sevenths_of_sampled_times_lie_within_the_error(share):
    draw = random.Random(0)
    counts = [sum(draw.random() < share for _ in range(150)) for _ in range(400)]
    within = [abs(count / 150 - share) <= sampling_error(count, count / 150) * count / 150 for count in counts]
    assert 0.8 <= sum(within) / len(within) <= 0.93
    low, *_, high = quantiles(counts, n=15)
    assert sampling_error(round(150 * share), share) * 150 * share == pytest.approx((high - low) / 2, rel=0.15)


def test_a_line_that_is_all_of_a_stage_is_nearly_certain_and_a_thin_one_is_not():
    assert sampling_error(20, 1.0) == 0.03
    assert sampling_error(4, 0.01) == 0.3


def test_functions_under_a_line_add_up_under_the_longest():
    rows = [line(5, 2.0, "f(g())", leaf="g"), line(5, 3.0, "f(g())", leaf="f"), line(6, 1.0)]
    found = by_line(rows)
    assert [(it.site.line, it.ms_per_step, it.leaf) for it in found] == [(5, 5.0, "f"), (6, 1.0, "")]
    assert found[0].samples == 200
