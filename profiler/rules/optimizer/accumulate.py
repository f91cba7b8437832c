"""optimizer/accumulate."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, number, percent


class Accumulate(Rule):
    """The update takes most of the step, though its implementation is a fast one.

    ## Why it is slow
    An update costs the same for a batch of any size: it reads and writes every parameter and its state. With
    small batches it is paid for few items each time.

    ## Evidence
    Every optimizer was constructed with `fused=True` or `foreach=True`, and `step()` is above `threshold` of
    the step. It abstains when the construction of the optimizers was not observed or `step()` was not timed
    apart. It is silent where gradients are accumulated already.

    ## Fix
    Update after several batches, or make the batches larger. Either changes the training, so that the
    learning rate may have to follow: this is only a note.

    ## Gain
    None is promised for the step, which gets longer with each batch in it. With n batches to an update, the
    time for a batch goes down by `step() x (n - 1) / n`.

    ## Reference
    PyTorch documentation, "CUDA Automatic Mixed Precision examples", "Gradient accumulation".
    """

    id = "optimizer/accumulate"
    arguments = {
        "transformers": "TrainingArguments(gradient_accumulation_steps=2)",
        "lightning": "Trainer(accumulate_grad_batches=2)",
    }
    evidence = "training"
    bottleneck = Bottleneck.OPTIMIZER
    explained_by = ("optimizer/many-groups",)
    threshold = Threshold(0.5, "share of the step spent in the optimizer's step()")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether updates dominate although they are fast."""
        stage, whole = facts.stages.get("optimizer"), step_ms(facts)
        if stage is None or facts.steps is None or stage.share < self.threshold.value:
            return None
        optimizers = facts.settings.optimizers
        if not optimizers:
            return self.abstain("the optimizer's construction was not observed")
        if not all(optimizer.fused or optimizer.foreach for optimizer in optimizers) or facts.steps.micro_batches > 1.5:
            return None
        if "step" not in stage.parts_ms:
            return self.abstain("the optimizer's step() was not timed apart from zero_grad and clipping")
        update_ms = stage.parts_ms["step"]
        if update_ms < self.threshold.value * whole or not worth(facts, update_ms / 2):
            return None
        parameters = sum(optimizer.parameters for optimizer in optimizers)
        return self.finding(
            title=(
                f"Updating {number(parameters)} parameters takes {percent(update_ms / whole)} of each {ms(whole)} step"
            ),
            why=(
                f"{optimizers[0].name}.step() takes {ms(update_ms)} and the rest of the step "
                f"{ms(whole - update_ms)}. An update costs the same after any number of batches: with two batches to "
                f"an update, each would take {ms(update_ms / 2)} less."
            ),
            evidence={
                "optimizer_step_ms": update_ms,
                "optimizer_step_share": update_ms / whole,
                "step_ms": whole,
                "micro_batches": facts.steps.micro_batches,
                "parameters": float(parameters),
            },
            fix=Fix.at(stage.call, "Update after several batches, or make batches larger.", _CODE),
            severity=Severity.INFO,
        )


_CODE = """\
(loss / 2).backward()
if (batch + 1) % 2 == 0:  # after every second batch
    optimizer.step()
    optimizer.zero_grad()"""
