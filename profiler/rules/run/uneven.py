"""run/uneven-steps: a mean that few steps make."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import STEPS_TO_JUDGE
from profiler.rules.phrases import joined, ms


class UnevenSteps(Rule):
    """A few long steps take much of the time, so the means say little about a usual step.

    ## Why it is slow
    Something now and then stops the loop: other programs on the same cores, a collection of garbage, an epoch's
    end. Stage times are means, and what such a pause hits is chance.

    ## Evidence
    The mean step is at least `mean_to_median` times the median, and the 95th percentile at least
    `p95_to_median` times. Others are named that kept at least `busy_cores` cores at work, by the system's
    idle time, where the training had no worker processes of its own.

    ## Fix
    Give the training the machine to itself and run again; where the report names the cause of its slow steps, mend
    that first.

    ## Gain
    Not estimated: at best, every step is a usual one.

    ## Reference
    Hoefler and Belli, "Scientific Benchmarking of Parallel Computing Systems", 2015: report medians and spread.
    """

    id = "run/uneven-steps"
    evidence = "training"
    bottleneck = Bottleneck.OTHER
    per_step = False
    needs_device_times = False
    mean_to_median = Threshold(1.5, "mean step over median step")
    p95_to_median = Threshold(3.0, "95th percentile over median step")
    busy_cores = Threshold(0.5, "cores kept busy by others from which they are named")

    def check(self, facts: Facts) -> Outcome:
        """Say how uneven the steps are, and what stands in the record beside the long ones."""
        steps = facts.steps
        if steps is None or steps.measured < STEPS_TO_JUDGE or steps.median_ms <= 0:
            return None
        mean, p95 = steps.mean_ms / steps.median_ms, steps.p95_ms / steps.median_ms
        if mean < self.mean_to_median.value or p95 < self.p95_to_median.value:
            return None
        others = _busy_with_others(facts)
        causes = sorted({outlier.cause for outlier in steps.outliers if outlier.cause})
        reasons = []
        if others is not None and others >= self.busy_cores.value:
            reasons.append(f"other programs kept {others:.1f} of {facts.machine.cores} cores busy meanwhile")
        if causes:
            reasons.append(f"beside slow steps stand: {joined(causes)}")
        because = f" {'; '.join(reasons).capitalize()}." if reasons else " The record shows no cause for it."
        return self.finding(
            title=f"steps are uneven: half take {ms(steps.median_ms)} or less, yet the mean is {ms(steps.mean_ms)}",
            why=f"One step in twenty takes {ms(steps.p95_ms)} or more.{because}",
            evidence={
                "median_ms": steps.median_ms,
                "mean_ms": steps.mean_ms,
                "p95_ms": steps.p95_ms,
                **({"cores_busy_with_others": others} if others is not None else {}),
            },
            fix=Fix("Run again with the machine to the training alone, and compare medians."),
            severity=Severity.INFO,
        )


def _busy_with_others(facts: Facts) -> float | None:
    """Cores that neither idled nor ran the training; None where that can't be told."""
    machine = facts.machine
    if machine.idle_cores is None or machine.process_cores is None:
        return None
    if facts.workers is not None and facts.workers.processes > 0:
        return None
    return max(0.0, machine.cores - machine.idle_cores - machine.process_cores - (machine.iowait_cores or 0.0))
