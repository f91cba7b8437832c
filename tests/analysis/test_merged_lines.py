"""Lines of a stage, added up as a person would name them."""

from __future__ import annotations

from profiler.analysis.facts import LineTime
from profiler.analysis.merged_lines import by_line
from profiler.analysis.site import Site


def line(number: int, leaf: str, ms: float) -> LineTime:
    return LineTime(Site("/home/ada/train.py", number, "main"), leaf, int(ms * 10), ms / 100, ms)


def test_a_line_is_named_by_its_longest_function_and_has_the_time_of_all():
    rows = [line(7, "a", 3.0), line(8, "", 6.0), line(7, "b", 4.0)]
    merged = by_line(rows)
    assert [(it.site.line, it.leaf, it.ms_per_step, it.samples) for it in merged] == [
        (7, "b", 7.0, 70),
        (8, "", 6.0, 60),
    ]
