"""straggler/python."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.straggler.late import Late, at_line, late


class LateByPython(Rule):
    """One rank runs code of the loop's own that the others don't, and they wait for it.

    ## Why it is slow
    Logging, metrics, saving images or a debug print under `if rank == 0` cost one rank a few milliseconds, and every
    other rank the same few milliseconds in its next collective. It looks like slow communication there.

    ## Evidence
    One rank comes last in the steps to which most of the waiting is due, the others wait for it for at least
    `threshold` of the step, and what it does longer than the typical other rank lies in `other`: outside of data,
    forward, backward and optimizer. The line is named where the sampler saw it. Abstains where ranks or their clocks
    could not be compared.

    ## Fix
    Do it every 50th step, after the loop, or in a thread or process beside the training.

    ## Gain
    What the others wait for it, at most what that code takes; 60 % to 100 % of it.

    ## Reference
    Understanding Stragglers in Large Model Training Using What-if Analysis (Lin et al., 2025).
    """

    id = "straggler/python"
    evidence = "training"
    bottleneck = Bottleneck.STRAGGLER
    threshold = Threshold(0.05, "share of the step that the other ranks wait")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether a rank is late by code of the loop's own."""
        found = late(facts, "other", threshold=self.threshold.value)
        if not isinstance(found, Late):
            return self.abstain(found) if found else None
        line = found.rank.line
        return self.finding(
            title=found.title,
            why=f"{found.steadiness}{at_line(found)}",
            evidence=found.evidence,
            fix=Fix.at(
                line.site if line else None,
                f"Run what only rank {found.rank.rank} does every 50th step, after the loop, or beside the training.",
                _CODE,
            ),
            gain=found.gain,
            step_ms=found.step_ms,
        )


_CODE = """\
if rank == 0 and step % 50 == 0:
    log(step, loss)"""
