"""What rules of pipelines ask first: its shape, and how long each rank works."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiler.analysis.facts import Facts
from profiler.analysis.site import Site
from profiler.rules.evidence import step_ms


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model whose layers are dealt out to ranks, and what its step is made of."""

    schedule: str
    stages: int
    micro_batches: int
    stages_of_rank: int
    site: Site | None  # where the schedule is made
    step_ms: float
    longest: int  # the rank that works longest
    longest_ms: float  # of work in a step
    mean_ms: float  # of all ranks

    @property
    def waits_ms(self) -> float:
        """What even the rank that works longest waits."""
        return max(self.step_ms - self.longest_ms, 0.0)

    @property
    def fill_ms(self) -> float:
        """For how long it must stand still while the pipeline fills and empties, by the schedule."""
        return self.longest_ms * (self.stages / self.stages_of_rank - 1) / (self.micro_batches * self.stages_of_rank)


def pipeline(facts: Facts) -> Pipeline | str | None:
    """The pipeline; why nothing can be said of it; None where there is none."""
    made = facts.settings.values.get("pipeline")
    whole = step_ms(facts)
    if facts.ranks is None or not isinstance(made, dict) or whole <= 0:
        return None
    if facts.ranks.exposed_ms is None:
        return f"how long ranks wait was not measured: {facts.ranks.withheld.get('exposed communication', 'no steps')}"
    if facts.ranks.missing:
        return "not all ranks of the pipeline left a record"
    work = {
        row.rank: row.step_ms - row.stages_ms.get("communication", 0.0)
        for row in facts.ranks.rows
        if row.step_ms is not None
    }
    if len(work) < 2:
        return "fewer than two ranks left steps"
    longest = max(work, key=lambda rank: work[rank])
    return Pipeline(
        schedule=str(made["schedule"]),
        stages=int(made["stages"]),
        micro_batches=max(int(made["micro_batches"]), 1),
        stages_of_rank=max(int(made["stages_of_rank"]), 1),
        site=facts.settings.sites.get("pipeline"),
        step_ms=whole,
        longest=longest,
        longest_ms=work[longest],
        mean_ms=float(np.mean(list(work.values()))),
    )
