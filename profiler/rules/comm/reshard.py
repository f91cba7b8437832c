"""comm/reshard-after-forward."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.exposed import Exposed, evidence, exposed
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent


class ReshardAfterForward(Rule):
    """Parameters are gathered twice a step, once for forward and again for backward, and both are waited for.

    ## Why it is slow
    Sharded parameters are freed after each layer's forward to save memory. Backward has to gather them again, and
    where nothing runs beside that, the step waits for it.

    ## Evidence
    Fully sharded data parallel is in use, all-gathers lie in backward, and what backward waits for beyond its
    reduce-scatters is at least `threshold` of the step. Abstains where waiting for late ranks can't be told from
    transfer.

    ## Fix
    `reshard_after_forward=False` (FSDP1: `SHARD_GRAD_OP`) where the memory is there: parameters stay gathered between
    forward and backward. Else prefetch them: `set_modules_to_backward_prefetch`.

    ## Gain
    The all-gathers in backward; 50 % to 100 % of what is waited for there.

    ## Reference
    torch.distributed.fsdp.fully_shard, "reshard_after_forward".
    """

    id = "comm/reshard-after-forward"
    bottleneck = Bottleneck.COMMUNICATION
    threshold = Threshold(0.05, "share of the step in all-gathers of the backward pass that nothing hides")

    def check(self, facts: Facts) -> Outcome:
        """Judge what the second gathering costs."""
        wrapped = facts.settings.values.get("fsdp")
        if facts.ranks is None or not isinstance(wrapped, dict) or _stays_gathered(wrapped):
            return None
        found = exposed(facts, self.threshold.value)
        if not isinstance(found, Exposed):
            return self.abstain(found) if found else None
        times = {"all_gather": 0.0, "reduce_scatter": 0.0}
        for row in found.ranks.collectives:
            if row.kind in times:
                times[row.kind] += row.calls * (row.ms or 0.0)
        in_backward = found.ranks.phases_ms.get("backward", 0.0) - times["reduce_scatter"]
        again_ms = min(in_backward, times["all_gather"] / 2, found.network_ms)
        if again_ms < self.threshold.value * found.step_ms or not worth(facts, again_ms):
            return None
        return self.finding(
            title=(
                f"Backward gathers the parameters again and waits {ms(again_ms)} for them "
                f"({percent(again_ms / found.step_ms)} of each step)"
            ),
            why=(
                f"All-gathers take {ms(times['all_gather'])} a step, about half of it in backward, since "
                "parameters are freed after forward."
            ),
            evidence={**evidence(found), "gathered_again_ms": again_ms, "all_gather_ms": times["all_gather"]},
            fix=Fix.at(
                facts.settings.sites.get("fsdp"),
                "Keep parameters gathered between forward and backward where the memory is there, else prefetch them.",
                "fully_shard(layer, reshard_after_forward=False)",
            ),
            gain=Gain.of(found.step_ms, 0.5 * again_ms, again_ms),
            step_ms=found.step_ms,
        )


def _stays_gathered(wrapped: dict[str, object]) -> bool:
    return wrapped.get("reshard_after_forward") is False or "SHARD_GRAD_OP" in str(wrapped.get("sharding_strategy"))
