"""Lines of a stage, added up as a person would name them. Needs nothing but the facts: pages are made with it.

In:  `LineTime`s, one for each function that ran under a line.
Out: `LineTime`s, one for each line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from profiler.analysis.facts import LineTime


def by_line(lines: Iterable[LineTime]) -> list[LineTime]:
    """One entry a line, most time first: the functions under it are added up, and the longest of them names it."""
    merged: dict[tuple[str, int], LineTime] = {}
    for line in sorted(lines, key=lambda line: -line.ms_per_step):
        key = (line.site.file, line.site.line)
        merged[key] = plus(merged[key], line) if key in merged else line
    return sorted(merged.values(), key=lambda line: -line.ms_per_step)


def plus(line: LineTime, more: LineTime) -> LineTime:
    """A line with the time of another, under its own name."""
    return replace(
        line,
        samples=line.samples + more.samples,
        share_of_stage=line.share_of_stage + more.share_of_stage,
        ms_per_step=line.ms_per_step + more.ms_per_step,
    )
