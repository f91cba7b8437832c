"""optimizer/scheduler."""

from __future__ import annotations

from profiler.analysis.facts import Facts, StageFacts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold, severity_of
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, number, percent

EVERY = 10  # steps between two calls, in the advice


class Scheduler(Rule):
    """The learning-rate scheduler costs more of the step than a trifle.

    ## Why it is slow
    `scheduler.step()` is Python: for every parameter group it computes a learning rate and writes it. Over
    many groups, or beside very short steps, that adds up.

    ## Evidence
    Schedulers take above `threshold` of the step. It abstains where the device runs behind the host, for
    which Python on the host may cost nothing.

    ## Fix
    Step the scheduler once in several steps, made for as many fewer steps. The learning rate then changes in
    stairs, so that this is never called critical. Fewer parameter groups help as well.

    ## Gain
    80 % to 90 % of the schedulers' time: called once in 10 steps a tenth of it remains, and a test of the
    step's number.

    ## Reference
    torch.optim, "How to adjust learning rate".
    """

    id = "optimizer/scheduler"
    evidence = "training"
    bottleneck = Bottleneck.OPTIMIZER
    explained_by = ("optimizer/many-groups",)
    threshold = Threshold(0.05, "share of the step spent in learning-rate schedulers")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the scheduler's Python is worth saving."""
        stage, whole = facts.stages.get("optimizer"), step_ms(facts)
        took_ms = stage.parts_ms.get("scheduler", 0.0) if stage else 0.0
        if stage is None or whole <= 0 or took_ms < self.threshold.value * whole:
            return None
        saves = (1 - 1 / EVERY) * took_ms
        if not worth(facts, saves):
            return None
        if facts.machine.asynchronous:
            return self.abstain("the device runs behind the host, which may have time to spare for schedulers")
        groups = sum(optimizer.groups for optimizer in facts.settings.optimizers)
        share = saves / whole
        return self.finding(
            title=f"Learning-rate schedulers take {percent(took_ms / whole)} of each {ms(whole)} step",
            why=(
                f"scheduler.step() takes {ms(took_ms)} of each step"
                + (f", in Python, for {number(groups)} parameter groups." if groups > 1 else ", in Python.")
                + f" Called once in {EVERY} steps it takes a tenth of that, and the learning rate changes in stairs."
            ),
            evidence={
                "scheduler_ms": took_ms,
                "scheduler_share": took_ms / whole,
                "step_ms": whole,
                **({"groups": float(groups)} if groups else {}),
            },
            fix=_fix(stage),
            gain=Gain.of(whole, 0.8 * took_ms, saves),
            step_ms=whole,
            severity=Severity.WARNING if share >= 0.20 else severity_of(share),
        )


def _fix(stage: StageFacts) -> Fix:
    """At the line that was sampled in the scheduler, where there is one."""
    line = next((line for line in stage.lines if "sched" in line.source and ".step(" in line.source), None)
    return Fix.at(line.site if line else None, f"Step the scheduler once in {EVERY} steps.", _CODE)


_CODE = f"""\
scheduler = ...  # made for total_steps // {EVERY} steps
if step % {EVERY} == 0:
    scheduler.step()"""
