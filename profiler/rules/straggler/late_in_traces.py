"""straggler/late-in-traces."""

from __future__ import annotations

from pathlib import Path

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.device_verdict import late_by
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent

_ADVICE = {  # by what a rank does longer
    "computing": "Give every rank batches of the same size, by length or cost; where they are, look at that device's "
    "clock, heat and neighbours.",
    "copies": "Look at how that rank's host is tied to its device, and whether its batches are pinned.",
    "idle_data_wait": "Look at that rank's storage and workers, and at what its part of the data costs to read.",
    "idle_host": "Look what that rank does alone (logging, checkpoints), and what else runs on its host's cores.",
    "idle_sync": "Look for what that rank alone reads from its device: a metric, a print.",
    "idle_copy": "Pin that rank's batches, and look at its host's memory.",
}
_ELSE = "Judge that rank's trace by itself, and compare it with another's."


class LateInTraces(Rule):
    """One rank of the traces comes late to its collectives, and the others wait for it.

    ## Why it is slow
    A collective ends for nobody before the last rank has come: the job runs at the pace of its slowest rank. What the
    others spend in it looks like a slow network.

    ## Evidence
    Traces of all ranks were given. One needs more of its own in a step than the typical other one, by at least
    `threshold` of the step, the others wait in their collectives for at least half as long, and the steps end together.
    Where the clocks could be told from the collectives, that rank is also the one that comes last. The cause is the
    part of the step that grows most.

    ## Fix
    By the cause: balance the batches, or look at that rank's device, host, storage or code.

    ## Gain
    What the rank comes later, at most what its cause takes longer; 60 % to 100 % of it.

    ## Reference
    Understanding Stragglers in Large Model Training Using What-if Analysis (Lin et al., 2025).
    """

    id = "straggler/late-in-traces"
    evidence = "facts"
    bottleneck = Bottleneck.STRAGGLER
    needs_device_times = False  # a trace holds them
    threshold = Threshold(0.10, "share of the step that the rank comes later")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the ranks of a job's traces wait for one of them."""
        if facts.trace is None or facts.trace.late is None:
            return None
        late = facts.trace.late
        if late.late_ms < self.threshold.value * late.step_ms:
            return None
        saves_ms = min(late.late_ms, late.cause_ms)
        if saves_ms <= 0 or not worth(facts, saves_ms):
            return None
        files = (file for file in facts.trace.files if Path(file).name.startswith(late.label))
        file = next(files, late.label)
        name = f"rank {late.rank}" if late.rank is not None else late.label
        return self.finding(
            title=(
                f"the other ranks wait for {name}, which comes {ms(late.late_ms)} "
                f"({percent(late.late_ms / late.step_ms)} of each {ms(late.step_ms)} step) later"
            ),
            why=(
                f"Of {name}, {late_by(late.cause)}, by {ms(late.cause_ms)} a step. The others spend that time in their "
                "collectives."
            ),
            evidence={"late_ms": late.late_ms, "cause_ms": late.cause_ms, "step_ms": late.step_ms},
            fix=Fix.at(None, _ADVICE.get(late.cause, _ELSE), f"prof trace {file}  # {name} by itself"),
            gain=Gain.of(late.step_ms, 0.6 * saves_ms, saves_ms),
            step_ms=late.step_ms,
        )
