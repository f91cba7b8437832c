"""One step in full: what each thread and each stream did when.

Values only, as a trace viewer draws them. Times are microseconds since the step began.
"""

from __future__ import annotations

from dataclasses import dataclass

SLOW = 1.15  # times the median step, from which the slowest step is shown too
STAGES, OPERATORS, CALLS, DEVICE, WORKERS = "stages", "operators", "calls", "device", "workers"


@dataclass(frozen=True, slots=True)
class ExcerptRow:
    """One row: spans that follow one another. The columns have one entry each per span."""

    name: str  # "stages", "operators" and "waits" are the training thread's; "thread 1262", "stream 7"
    kind: str  # of the constants above
    group: str  # "host", "device 0"
    start_us: tuple[float, ...]
    length_us: tuple[float, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]  # the stage, or the kernel's family


@dataclass(frozen=True, slots=True)
class StepExcerpt:
    """One step."""

    index: int
    what: str  # "typical", "slow", or "watched": of the deep window, which slows the host
    start_ms: float  # since the recording began
    wall_ms: float
    rows: tuple[ExcerptRow, ...]
    left_out: int = 0  # spans, the shortest, that were too many to keep

    @property
    def spans(self) -> int:
        """How many it holds."""
        return sum(len(row.names) for row in self.rows)
