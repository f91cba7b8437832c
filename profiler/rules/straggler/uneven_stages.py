"""straggler/uneven-stages."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.pipeline import Pipeline, pipeline
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent


class UnevenStages(Rule):
    """One stage of the pipeline has more to do than the others, and they wait for it at every micro-batch.

    ## Why it is slow
    A micro-batch leaves the pipeline as often as its slowest stage is done with one. Whatever the other ranks are
    faster, they wait.

    ## Evidence
    A schedule of torch.distributed.pipelining is in use, and the rank that works longest does so for longer than the
    mean of all by at least `threshold` of the step. Abstains where a rank left no record, and where the device's own
    clock was not read.

    ## Fix
    Move layers from that rank's stage to the others. The embedding, and the head with its loss, count as layers.

    ## Gain
    With even stages each rank works for the mean: 20 % to 100 % of the difference, since layers can't be divided and
    ranks that no longer wait compete for cores and memory (measured on two ranks: 23 % to 53 %).

    ## Reference
    PipeDream: Generalized Pipeline Parallelism for DNN Training (Narayanan et al., SOSP 2019), section 3.1.
    """

    id = "straggler/uneven-stages"
    evidence = "training"
    bottleneck = Bottleneck.STRAGGLER
    threshold = Threshold(0.1, "share of the step by which the busiest rank works longer than the mean")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the layers are dealt out evenly."""
        found = pipeline(facts)
        if not isinstance(found, Pipeline):
            return self.abstain(found) if found else None
        more_ms = found.longest_ms - found.mean_ms
        if more_ms < self.threshold.value * found.step_ms or not worth(facts, more_ms):
            return None
        return self.finding(
            title=(
                f"rank {found.longest}'s stage of the pipeline works {ms(found.longest_ms)} of each "
                f"{ms(found.step_ms)} step, the mean of all {ms(found.mean_ms)}: the others wait for it"
            ),
            why=(
                f"A micro-batch leaves the pipeline when its slowest stage is done with it. With even stages each rank "
                f"would work {ms(found.mean_ms)}, {percent(more_ms / found.longest_ms)} less than that one does now."
            ),
            evidence={
                "longest_work_ms": found.longest_ms,
                "mean_work_ms": found.mean_ms,
                "stages": float(found.stages),
                "step_ms": found.step_ms,
            },
            fix=Fix.at(
                found.site,
                f"Move layers from the stage of rank {found.longest} to the others.",
                "layers = layers[first[rank] : first[rank + 1]]  # stages of equal work, not of equal count",
            ),
            gain=Gain.of(found.step_ms, 0.2 * more_ms, more_ms),
            step_ms=found.step_ms,
        )
