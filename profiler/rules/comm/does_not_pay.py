"""comm/does-not-pay."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold
from profiler.rules.comm.exposed import Exposed, evidence, exposed, sentence
from profiler.rules.phrases import ms

_WORTH_SHARE = 0.75  # of the ranks' number, at which they are said to pay


class DoesNotPay(Rule):
    """All ranks together train hardly faster than one of them would alone.

    ## Why it is slow
    A rank alone exchanges nothing and waits for nobody. Where that takes most of the step, what the other ranks add
    is lost again in talking to them.

    ## Evidence
    With n ranks whose step has so much work of its own, n times that work per step's time is how many ranks' worth
    of training is done; it is below `worth_ranks`. Abstains where waiting for late ranks can't be told from transfer.

    ## Fix
    Train on one rank until the step has more work (larger batch, model or faster network), then scale. The batch at
    which the ranks would do three quarters of their number's work is said: what they exchange does not grow with it.

    ## Gain
    Promised only where one rank alone is faster: n ranks' work in `n x work` against the step.

    ## Reference
    PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., VLDB 2020), section 5.
    """

    id = "comm/does-not-pay"
    bottleneck = Bottleneck.COMMUNICATION
    explained_by = ("comm/little-work", "comm/accumulation-without-no-sync", "comm/many-small-messages")
    worth_ranks = Threshold(1.2, "ranks' worth of training below which more than one rank does not pay")

    def check(self, facts: Facts) -> Outcome:
        """Judge what the ranks add up to."""
        found = exposed(facts, 0.2)
        if not isinstance(found, Exposed):
            return self.abstain(found) if found else None
        count = found.ranks.world_size
        worth_ranks = count * found.work_ms / found.step_ms
        if count < 2 or worth_ranks >= self.worth_ranks.value:
            return None
        alone_ms = count * found.work_ms
        gain = Gain.of(found.step_ms, 0.5 * (found.step_ms - alone_ms), found.step_ms - alone_ms)
        faster = alone_ms < 0.95 * found.step_ms
        pays = _pays_at(found)
        return self.finding(
            title=f"{count} ranks train as fast as {worth_ranks:.1f} would without communication",
            why=(
                f"{sentence(found)} The work of a step takes a rank {ms(found.work_ms)}, so one alone would do what "
                f"{count} do in {ms(found.step_ms)} in {ms(alone_ms)}."
            ),
            evidence={**evidence(found), "worth_ranks": worth_ranks, "alone_ms": alone_ms, "batch_factor": pays},
            fix=Fix(
                f"Give each rank more work per step ({pays:.1f} times the batch to be worth "
                f"{_WORTH_SHARE * count:.1f} ranks), or train on fewer ranks."
            ),
            gain=gain if faster else None,
            step_ms=found.step_ms,
            severity=Severity.INFO,
        )


def _pays_at(found: Exposed) -> float:
    """With how many times the work a step the ranks are worth `_WORTH_SHARE` of their number: k·w / (k·w + lost)."""
    lost_ms = found.step_ms - found.work_ms
    return _WORTH_SHARE / (1 - _WORTH_SHARE) * lost_ms / max(found.work_ms, 1e-9)
