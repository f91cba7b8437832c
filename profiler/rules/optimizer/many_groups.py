"""optimizer/many-groups."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.optimizer.for_loop import SMALL
from profiler.rules.phrases import ms, number, percent

LEFT = (0.10, 0.45)  # share of step()'s time that one group left (measured, see the docstring)


class ManyGroups(Rule):
    """One parameter group for each tensor takes the fused or foreach optimizer apart.

    ## Why it is slow
    The fused and foreach implementations update all tensors of a group in a few calls. With a group for
    each tensor they are called once for each tensor, and Python prepares every call.

    ## Evidence
    The only optimizer was constructed with `fused=True` or `foreach=True`, has at least `groups` parameter
    groups with no more than `tensors_per_group` tensors each on average, and its `step()` is above
    `threshold` of the step. It abstains where `step()` was not timed apart, for several optimizers, for
    accelerators, and for tensors of 5,000 parameters or more, for which no gain was measured. It is a note, since
    whether the groups' settings differ is not recorded.

    ## Fix
    One group for all parameters that share their settings. Groups that differ in learning rate or weight
    decay must stay apart.

    ## Gain
    With one group 10 % to 45 % of `step()`'s time remain: measured on 2 cores, torch 2.13, 50 to 400 tensors
    of 64 and 2,000 parameters, fused and foreach AdamW and SGD left 0.09 to 0.37 of it alone, 0.44 within a
    training.

    ## Reference
    torch.optim, "Per-parameter options" and "Algorithms".
    """

    id = "optimizer/many-groups"
    evidence = "training"
    bottleneck = Bottleneck.OPTIMIZER
    threshold = Threshold(0.05, "share of the step spent in the optimizer's step()")
    groups = Threshold(20, "parameter groups below which their number is no matter")
    tensors_per_group = Threshold(1.5, "mean tensors in a group above which groups are worth their call")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether groups defeat the implementation that was chosen."""
        stage, whole = facts.stages.get("optimizer"), step_ms(facts)
        optimizers = facts.settings.optimizers
        if stage is None or stage.share < self.threshold.value:
            return None
        many = [
            optimizer
            for optimizer in optimizers
            if (optimizer.fused or optimizer.foreach)
            and optimizer.groups >= self.groups.value
            and optimizer.tensors <= self.tensors_per_group.value * optimizer.groups
        ]
        if not many:
            return None
        if len(optimizers) > 1:
            return self.abstain("several optimizers share the time")
        if "step" not in stage.parts_ms:
            return self.abstain("the optimizer's step() was not timed apart from zero_grad and clipping")
        if facts.machine.device != "cpu":
            return self.abstain("no gain was measured for accelerators yet")
        optimizer, update_ms = many[0], stage.parts_ms["step"]
        if optimizer.parameters >= SMALL * max(optimizer.tensors, 1):
            return self.abstain("no gain was measured for tensors this large")
        if update_ms < self.threshold.value * whole or not worth(facts, (1 - LEFT[1]) * update_ms):
            return None
        chosen = "fused" if optimizer.fused else "foreach"
        return self.finding(
            title=(
                f"{optimizer.name}.step() takes {percent(update_ms / whole)} of each {ms(whole)} step, calling its "
                f"{chosen} update for {number(optimizer.groups)} groups one by one"
            ),
            why=(
                f"The {chosen} implementation updates a whole group at once, but {number(optimizer.tensors)} tensors "
                f"lie in {number(optimizer.groups)} groups: it is called {number(optimizer.groups)} times, "
                f"{ms(update_ms)} a step. In one group the same update takes {percent(LEFT[0])} to "
                f"{percent(LEFT[1])} of that, if their settings allow one."
            ),
            evidence={
                "optimizer_step_ms": update_ms,
                "optimizer_step_share": update_ms / whole,
                "step_ms": whole,
                "groups": float(optimizer.groups),
                "tensors": float(optimizer.tensors),
                "parameters": float(optimizer.parameters),
            },
            fix=Fix.at(
                optimizer.site,
                "Put parameters that share their settings into one group.",
                f"{optimizer.name}(model.parameters(), {chosen}=True)  # the other arguments stay",
            ),
            gain=Gain.of(whole, (1 - LEFT[1]) * update_ms, (1 - LEFT[0]) * update_ms),
            step_ms=whole,
            severity=Severity.INFO,  # whether the groups' settings differ is not recorded
        )
