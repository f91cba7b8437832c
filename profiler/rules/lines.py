"""Sampled lines, added up the ways in which a person would name them.

In:  the lines of a stage.
Out: lines again, fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from profiler.analysis.facts import LineTime
from profiler.analysis.merged_lines import by_line, plus

_SIGMAS = 1.5
_LEAST_ERROR, _MOST_ERROR = 0.03, 0.3


def sampling_error(samples: int, share_of_stage: float) -> float:
    """How far a line's time may be off, as a share of it: 1.5 standard deviations of a binomial count.

    `samples` of the stage's `samples / share_of_stage` fell on the line; the stage's own time is measured, not sampled.
    """
    spread = _SIGMAS * math.sqrt(max(0.0, 1 - share_of_stage) / max(1, samples))
    return min(_MOST_ERROR, max(_LEAST_ERROR, spread))


def error_of(line: LineTime) -> float:
    """How far a line's time may be off, as a share of it."""
    return _LEAST_ERROR if line.measured else sampling_error(line.samples, line.share_of_stage)


def standing_out(lines: Iterable[LineTime], enough_ms: float) -> list[LineTime]:
    """Lines that cost enough, and functions whose lines do only together (as their costliest)."""
    single = by_line(lines)
    functions: dict[tuple[str, str], LineTime] = {}
    for line in single:
        key = (line.site.file, line.site.function)
        if line.ms_per_step < enough_ms and line.site.function not in ("", "<module>"):
            functions[key] = plus(functions[key], line) if key in functions else line
    return [line for line in (*single, *functions.values()) if line.ms_per_step >= enough_ms]
