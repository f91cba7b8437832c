"""comm/gradient-copies."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.exposed import reduced, wrapped_at
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, percent, size


class GradientCopies(Rule):
    """Gradients are copied out of the buckets in which they were exchanged.

    ## Why it is slow
    DistributedDataParallel keeps gradients twice, in the parameters and in its buckets, and copies them from one to
    the other after each reduction, while the step waits. As views of the buckets they need no copy, nor the memory.

    ## Evidence
    `gradient_as_bucket_view` is off, and the deep window saw copies within communication of at least `threshold` of
    the step. Abstains where no step was looked at operator by operator.

    ## Fix
    Pass `gradient_as_bucket_view=True`; don't keep references to `parameter.grad` over `zero_grad`.

    ## Gain
    The copies; from half of them, since operators run slower while they are watched.

    ## Reference
    torch.nn.parallel.DistributedDataParallel, "gradient_as_bucket_view".
    """

    id = "comm/gradient-copies"
    bottleneck = Bottleneck.COMMUNICATION
    threshold = Threshold(0.05, "share of the step in copies out of buckets")

    def check(self, facts: Facts) -> Outcome:
        """Judge what copies cost."""
        reduction, whole = reduced(facts), step_ms(facts)
        if reduction is None or reduction.gradient_as_bucket_view or not whole:
            return None
        if not facts.operators:
            return self.abstain(facts.not_measured.get("operators", "no operators were seen"))
        copies = [row for row in facts.operators if row.get("stage") == "communication"]
        copies_ms = sum(float(row.get("ms_per_step") or 0.0) for row in copies if row.get("name") == "aten::copy_")
        copies_ms = min(copies_ms, facts.stage_ms("communication"))
        if copies_ms < self.threshold.value * whole or not worth(facts, copies_ms):
            return None
        return self.finding(
            title=f"Copying {size(reduction.parameter_bytes)} of gradients out of their buckets takes {ms(copies_ms)} "
            f"({percent(copies_ms / whole)}) of each step",
            why=(
                "After each reduction the gradients are copied from the buckets to the parameters, since "
                "gradient_as_bucket_view is off; the step waits for that."
            ),
            evidence={
                "copies_ms": copies_ms,
                "gradients_bytes": float(reduction.parameter_bytes),
                "step_ms": whole,
            },
            fix=Fix.at(
                wrapped_at(facts),
                "Let gradients be views of the buckets.",
                "model = DistributedDataParallel(model, gradient_as_bucket_view=True)",
            ),
            gain=Gain.of(whole, 0.5 * copies_ms, copies_ms),
            step_ms=whole,
        )
