"""comm/accumulation-without-no-sync."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.exposed import Exposed, evidence, gradients_exposed, reduced, sentence, wrapped_at
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent


class AccumulationWithoutNoSync(Rule):
    """Gradients are exchanged at every micro-batch, though only their sum is used.

    ## Why it is slow
    Under DistributedDataParallel each backward pass ends with an all-reduce of all gradients. With gradient
    accumulation only the last one of a step is needed: the others send sums that the next one sends again.

    ## Evidence
    A step has at least `micro_batches` backward passes, the reducer worked in each of them and never ran under
    `no_sync`, and the transfer that nothing hides is at least `threshold` of the step. Abstains where waiting for
    late ranks can't be told from transfer.

    ## Fix
    Run all micro-batches but the last under `model.no_sync()`, forward and backward both.

    ## Gain
    All but one of the step's reductions: `transfer x (n - 1) / n` for n micro-batches, 70 % to 100 % of it.

    ## Reference
    torch.nn.parallel.DistributedDataParallel.no_sync.
    """

    id = "comm/accumulation-without-no-sync"
    evidence = "training"
    bottleneck = Bottleneck.COMMUNICATION
    threshold = Threshold(0.05, "share of the step in transfer that nothing hides")
    micro_batches = Threshold(1.9, "backward passes a step from which it accumulates")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether reductions are made that nothing uses."""
        reduction, steps = reduced(facts), facts.steps
        if reduction is None or steps is None or facts.ranks is None:
            return None
        passes = steps.micro_batches
        if passes < self.micro_batches.value or reduction.unsynced or reduction.synced == 0:
            return None
        found = gradients_exposed(facts, self.threshold.value)
        if not isinstance(found, Exposed):
            return self.abstain(found) if found else None
        saves = found.network_ms * (passes - 1) / passes
        if not worth(facts, saves):
            return None
        call = facts.stages["backward"].call if "backward" in facts.stages else None
        return self.finding(
            title=(
                f"Gradients are exchanged {passes:.0f} times a step, which takes {ms(found.network_ms)} "
                f"({percent(found.share)}) of it; once is enough"
            ),
            why=(
                f"{sentence(found)} {passes:.0f} backward passes make one step, and each ends with an all-reduce "
                "of all gradients, since none of them ran under no_sync()."
            ),
            evidence={**evidence(found), "reductions_per_step": passes},
            fix=Fix.at(
                call or wrapped_at(facts), "Run all micro-batches but the last of a step under model.no_sync().", _CODE
            ),
            gain=Gain.of(found.step_ms, 0.7 * saves, saves),
            step_ms=found.step_ms,
        )


_CODE = """\
from contextlib import nullcontext

for micro, (x, y) in enumerate(micro_batches):
    last = micro == len(micro_batches) - 1
    with nullcontext() if last else model.no_sync():
        loss = loss_fn(model(x), y) / len(micro_batches)
        loss.backward()
optimizer.step()"""
