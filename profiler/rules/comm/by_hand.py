"""comm/gradients-by-hand."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.exposed import Exposed, evidence, exposed, reduced
from profiler.rules.comm.small_messages import exchanged_at
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent, size


class GradientsByHand(Rule):
    """Gradients are exchanged after the backward pass, when nothing is left that could hide it.

    ## Why it is slow
    The gradients of the last layers are ready long before those of the first. Sent at once, they cross the network
    while the rest is computed; sent after backward, all of them are waited for.

    ## Evidence
    No DistributedDataParallel is in use, the ranks exchange at least half of the parameters' bytes a step outside of
    forward and backward, and the transfer is at least `threshold` of the step.

    ## Fix
    Wrap the model in DistributedDataParallel and drop the exchange.

    ## Gain
    What can run behind the backward pass: at most its computing and at most 7/8 of the transfer; 30 % to 80 % of it.

    ## Reference
    torch.nn.parallel.DistributedDataParallel.
    """

    id = "comm/gradients-by-hand"
    bottleneck = Bottleneck.COMMUNICATION
    explained_by = ("comm/many-small-messages",)
    threshold = Threshold(0.05, "share of the step in transfer that nothing hides")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the exchange could run behind backward."""
        if facts.ranks is None or reduced(facts) is not None or "fsdp" in facts.settings.values:
            return None
        found = exposed(facts, self.threshold.value)
        if not isinstance(found, Exposed):
            return self.abstain(found) if found else None
        model = max((root.parameter_bytes for root in facts.settings.roots if not root.is_loss), default=0)
        rows = [row for row in facts.ranks.collectives if row.kind in ("all_reduce", "reduce_scatter")]
        sent = sum(row.calls * row.bytes for row in rows)
        outside_ms = sum(facts.ranks.phases_ms.get(phase, 0.0) for phase in ("other", "optimizer"))
        backward = facts.stage_ms("backward")
        if not model or sent < 0.5 * model or outside_ms < 0.5 * (facts.ranks.exposed_ms or 0.0) or not backward:
            return None
        could = min(found.network_ms * 7 / 8, backward)
        if not worth(facts, 0.8 * could):
            return None
        return self.finding(
            title=(
                f"{size(sent)} a step are exchanged after the backward pass, for {ms(found.network_ms)} "
                f"({percent(found.share)}) of it"
            ),
            why=(
                f"The exchange begins when backward has ended, so none of its {ms(found.network_ms)} runs behind the "
                f"{ms(backward)} that backward computes."
            ),
            evidence={**evidence(found), "sent_bytes": sent, "backward_ms": backward},
            fix=Fix.at(
                exchanged_at(facts),
                "Wrap the model in DistributedDataParallel, which sends gradients as they become ready.",
                "model = DistributedDataParallel(model)  # and no all_reduce of gradients in the loop",
            ),
            gain=Gain.of(found.step_ms, 0.3 * could, 0.8 * could),
            step_ms=found.step_ms,
        )
