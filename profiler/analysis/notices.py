"""What the reader of a report must know of the record itself.

In:  the records of all training processes of a run.
Out: sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from profiler.analysis.facts import Machine
from profiler.analysis.folded import Folded
from profiler.record.reader import of_kind
from profiler.record.vocabulary import Name

_CROWDED = 0.1  # of the time


class Recorded(Protocol):
    """A training process's record."""

    @property
    def directory(self) -> Path: ...
    @property
    def folded(self) -> Folded: ...
    @property
    def notes(self) -> list[dict[str, Any]]: ...
    @property
    def damaged_notes(self) -> int: ...
    @property
    def process(self) -> Mapping[str, Any]: ...


def notices_of(training: Recorded, trainings: Sequence[Recorded]) -> tuple[str, ...]:
    """All that qualifies the facts, most important first."""
    folded = training.folded
    found = [
        f"recording was switched off by an error of its own in {note.get('where')}: {note.get('error')}"
        for note in of_kind(training.notes, "disabled")
    ]
    if Name.DISABLED in folded.marks and not found:
        found.append("recording was switched off by an error of its own")
    if folded.lost_segments:
        many = "segment" if folded.lost_segments == 1 else "segments"
        found.append(
            f"{folded.lost_segments} {many} of the record were dropped to stay within its disk limit; "
            "their steps are not counted"
        )
    columns = folded.steps.columns()
    if columns and int(columns["weight"].max()) > 1:
        found.append(
            f"the run is long: of its {folded.carry.steps:,} steps {folded.steps.rows:,} were kept for the statistics, "
            "evenly over the run; totals and counts are exact"
        )
    if folded.cut_short:
        found.append("the last step was cut short and is not counted")
    if folded.repaired_blocks:
        found.append("some calls were recorded without their end, which was inferred from what came after")
    if training.damaged_notes:
        found.append(f"{training.damaged_notes} notes could not be read")
    return (*found, *folded.notices)


def crowded(machine: Machine) -> tuple[str, ...]:
    """That other work held up the training thread, where it did for long."""
    share = machine.without_core
    if share is None or share < _CROWDED:
        return ()
    return (
        f"for {100 * share:.0f} % of the steps' time the training thread was ready to run and had no core: other "
        "work, or more threads than cores, made steps longer and uneven",
    )


def missing_steps(folded: Folded, recorded: bool, processes: int) -> str:
    """Why there is no step."""
    if not recorded:
        if processes == 0:
            return "no Python process checked in: the command started none, or with -E or -I"
        return "no process of the run called a hook: it ended before it trained, or trained without PyTorch"
    if folded.cut_short:
        return "the training ended before its first step was complete"
    if folded.last_ns == 0:
        return "the record holds no event that can be read"
    return "no backward pass and no optimizer step was seen"
