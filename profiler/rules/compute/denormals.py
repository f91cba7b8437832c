"""compute/denormals."""

from __future__ import annotations

from typing import Any

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, percent


class Denormals(Rule):
    """The optimizer's states are full of denormal numbers, which the CPU computes slowly.

    ## Why it is slow
    Below about 1e-38 a float32 loses digits instead of becoming zero, and many CPUs compute such numbers on a slow
    path. They come by themselves: a moment that gets no gradient any more (a row of an embedding, a dead unit) fades
    by 0.9 a step, is denormal after some 800 steps, and stays so.

    ## Evidence
    Of one of the optimizer's states at least `share` of the numbers were denormal when they were looked at (after 256
    steps, and twice as late each time), an update of such numbers took at least `slowdown` times as long as one of
    ordinary numbers, timed on copies on this machine, and `step()` is above `threshold` of the step. It abstains
    where `step()` was not timed apart. Activations are not looked at.

    ## Fix
    `torch.set_flush_denormal(True)`, once, before the training: such numbers become zero.

    ## Gain
    The update's time by the measured slowdown and the share of such numbers, 70 % to 130 % of it: they may have come
    late in the run, and caches differ.

    ## Reference
    torch.set_flush_denormal; PyTorch performance tuning guide, "CPU specific optimizations".
    """

    id = "compute/denormals"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    share = Threshold(0.1, "share of a state's numbers that are denormal")
    slowdown = Threshold(1.2, "times as long as ordinary numbers take, from which it matters")
    threshold = Threshold(0.05, "share of the step in the optimizer's step()")

    def check(self, facts: Facts) -> Outcome:
        """Judge denormal numbers in the optimizer's states."""
        seen: Any = facts.settings.values.get("denormals")
        if facts.machine.device != "cpu" or not isinstance(seen, dict):
            return None
        share, slowdown = float(seen.get("share") or 0.0), float(seen.get("slowdown") or 1.0)
        if share < self.share.value or slowdown < self.slowdown.value:
            return None
        stage, whole = facts.stages.get("optimizer"), step_ms(facts)
        if stage is None or stage.share < self.threshold.value:
            return None
        if "step" not in stage.parts_ms:
            return self.abstain("the optimizer's step() was not timed apart from zero_grad and clipping")
        update_ms = stage.parts_ms["step"]
        saves = update_ms * (1 - 1 / (1 + share * (slowdown - 1)))
        if not worth(facts, saves):
            return None
        return self.finding(
            title=(
                f"{percent(share)} of the optimizer's {seen.get('state') or 'states'} are denormal numbers, and its "
                f"step() takes {percent(update_ms / whole)} of each {ms(whole)} step"
            ),
            why=(
                f"An update of such numbers takes {slowdown:.1f} times as long on this CPU as one of ordinary numbers. "
                f"step() takes {ms(update_ms)}."
            ),
            evidence={
                "denormal_share": share,
                "slowdown": slowdown,
                "optimizer_step_ms": update_ms,
                "step_ms": whole,
            },
            fix=Fix.at(
                facts.settings.optimizers[0].site if facts.settings.optimizers else None,
                "Let the CPU take denormal numbers for zero.",
                "torch.set_flush_denormal(True)  # once, before the training",
            ),
            gain=Gain.of(whole, 0.7 * saves, 1.3 * saves),
            step_ms=whole,
        )
