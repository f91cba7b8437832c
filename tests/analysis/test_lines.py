"""The user's lines by their samples: whole, however many functions ran under them."""

from __future__ import annotations

import numpy as np
import pytest

from profiler.analysis.lines import rank_lines
from profiler.analysis.site import Site


def test_a_line_keeps_every_function_that_ran_under_it():
    draws = {number: (Site("train.py", 9, "train"), f"rich.draw_{number}") for number in range(60)}
    others = {100 + number: (Site("train.py", 20 + number, "train"), "") for number in range(40)}
    sites = np.array([*draws, *others], dtype=np.int64)
    rows = rank_lines(sites, np.ones_like(sites), 10.0, draws | others, lambda file, line: f"line {line}\n")
    drawn = [row for row in rows if row.site.line == 9]
    assert sum(row.samples for row in drawn) == 60
    assert sum(row.ms_per_step for row in drawn) == pytest.approx(6.0)
    assert len({row.site.line for row in rows}) == 20
    assert {row.source for row in drawn} == {"line 9"}
