"""optimizer/zero-grad."""

from __future__ import annotations

from profiler.analysis.facts import Facts, LineTime
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.optimizer.for_loop import SMALL
from profiler.rules.phrases import ms, number, percent, place

GOES = (0.6, 1.0)  # share of zero_grad's time that went from the step (measured, see the docstring)


class ZeroGrad(Rule):
    """zero_grad fills gradients with zeros instead of dropping them.

    ## Why it is slow
    With `set_to_none=False` every gradient is written with zeros, and backward then reads it to add to it.
    Without it, as is torch's default, zero_grad drops the gradients and backward writes them new.

    ## Evidence
    zero_grad takes above `threshold` of the step, and the user's line that was sampled in it says
    `set_to_none=False`. Dropping large gradients takes time too, so that the time alone proves nothing: it
    abstains where no line that calls zero_grad was seen. It also abstains for accelerators and for tensors of
    5,000 parameters or more, for which no gain was measured.

    ## Fix
    `zero_grad()` without the argument. Code that reads `p.grad` before the next backward must expect None.

    ## Gain
    60 % to 100 % of zero_grad's time. Measured over zero_grad and backward together, 2 cores, torch 2.13, 50
    to 400 tensors of 64 and 2,000 parameters: what went was 1.0 to 2.5 times that time, some of it backward's.

    ## Reference
    torch.optim.Optimizer.zero_grad, "set_to_none"; PyTorch performance tuning guide.
    """

    id = "optimizer/zero-grad"
    evidence = "training"
    bottleneck = Bottleneck.OPTIMIZER
    threshold = Threshold(0.05, "share of the step spent in zero_grad")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether gradients are filled with zeros at a cost."""
        stage, whole = facts.stages.get("optimizer"), step_ms(facts)
        zero_ms = stage.parts_ms.get("zero_grad", 0.0) if stage else 0.0
        if stage is None or whole <= 0 or zero_ms < self.threshold.value * whole or not worth(facts, zero_ms):
            return None
        called = [line for line in stage.lines if "zero_grad" in line.source]
        line = next((line for line in called if _fills(line)), None)
        if line is None:
            return None if called else self.abstain("the line that calls zero_grad was not seen")
        if facts.machine.device != "cpu":
            return self.abstain("no gain was measured for accelerators yet")
        tensors = sum(optimizer.tensors for optimizer in facts.settings.optimizers)
        parameters = sum(optimizer.parameters for optimizer in facts.settings.optimizers)
        if not tensors:
            return self.abstain("the optimizer's construction was not observed")
        if parameters / tensors >= SMALL:
            return self.abstain("no gain was measured for tensors this large")
        return self.finding(
            title=(
                f"zero_grad takes {percent(zero_ms / whole)} of each {ms(whole)} step, filling "
                f"{number(tensors)} gradients with zeros"
            ),
            why=(
                f"{place(line.site, facts)} `{line.source.strip()}` writes zeros into {number(tensors)} gradients, "
                f"{ms(zero_ms)} a step, and backward reads them again to add to them."
            ),
            evidence={
                "zero_grad_ms": zero_ms,
                "zero_grad_share": zero_ms / whole,
                "step_ms": whole,
                "tensors": float(tensors),
                "parameters": float(parameters),
            },
            fix=Fix.at(line.site, "Drop the gradients instead of filling them with zeros.", _CODE),
            gain=Gain.of(whole, GOES[0] * zero_ms, GOES[1] * zero_ms),
            step_ms=whole,
        )


def _fills(line: LineTime) -> bool:
    return "set_to_none=False" in line.source.replace(" ", "")


_CODE = "optimizer.zero_grad()  # set_to_none=True is the default"
