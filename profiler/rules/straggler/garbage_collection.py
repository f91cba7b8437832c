"""straggler/garbage-collection."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.straggler.late import Late, late


class LateByGarbageCollection(Rule):
    """One rank collects garbage while the others wait for it.

    ## Why it is slow
    Python stops a rank to look through its objects whenever it likes. One rank with many objects, or ranks that
    collect in different steps, stop all others too.

    ## Evidence
    One rank comes last in the steps to which most of the waiting is due, the others wait for it for at least
    `threshold` of the step, and at least half of what it takes longer is garbage collection. Abstains where ranks or
    their clocks could not be compared.

    ## Fix
    Freeze what startup made and collect on all ranks in the same step.

    ## Gain
    What the others wait for it, at most the pauses; 60 % to 100 % of it.

    ## Reference
    Python's gc module, `gc.freeze`; MegaScale (Jiang et al., NSDI 2024), section 3.6 on garbage collection.
    """

    id = "straggler/garbage-collection"
    bottleneck = Bottleneck.STRAGGLER
    threshold = Threshold(0.05, "share of the step that the other ranks wait")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether a rank is late by its garbage collection."""
        found = late(facts, "gc", threshold=self.threshold.value)
        if not isinstance(found, Late):
            return self.abstain(found) if found else None
        return self.finding(
            title=found.title,
            why=f"{found.steadiness} Its pauses come when Python decides, so no other rank pauses with it.",
            evidence=found.evidence,
            fix=Fix("Freeze what startup made, and collect on all ranks in the same step.", _CODE),
            gain=found.gain,
            step_ms=found.step_ms,
        )


_CODE = """\
import gc

gc.collect()
gc.freeze()
gc.disable()
for step, batch in enumerate(loader):
    ...
    if step % 500 == 0:
        gc.collect(1)"""
