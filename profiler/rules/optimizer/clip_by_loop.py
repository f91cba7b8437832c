"""optimizer/clip-by-loop."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.host.kinds import kind_of
from profiler.rules.lines import sampling_error
from profiler.rules.optimizer.for_loop import SMALL
from profiler.rules.phrases import ms, number, percent, place

LEFT = (0.4, 0.75)  # of the loop's time, with clip_grad_norm_(foreach=True) (measured, see the docstring)
CALL_US = 2.5  # it takes for each small tensor at the least: a loop that takes no more has nothing to gain


class ClipByLoop(Rule):
    """Gradients are clipped by a loop over the parameters.

    ## Why it is slow
    A norm, a Python number and a multiplication for each tensor, with views and copies between them: several small
    operators where `clip_grad_norm_` has two, and Python between all of them.

    ## Evidence
    Between backward and the update the sampler found lines that take norms of gradients or scale them, for at
    least `threshold` of the step together, over at least `samples` samples. It abstains below that, for tensors of
    5,000 parameters or more, for which no gain was measured, and for accelerators, where what waits is `sync/item`.

    ## Fix
    `torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)`: one call for all tensors.

    ## Gain
    0.4 to 0.75 of the lines' time remain: measured on 2 cores, torch 2.13, 50 to 400 tensors of 64 to 2,000 numbers, a
    loop that detaches, takes `norm(2).item()` and scales through `.data`, against `clip_grad_norm_` with foreach.
    Give or take the sampling error.

    ## Reference
    torch.nn.utils.clip_grad_norm_, "foreach".
    """

    id = "optimizer/clip-by-loop"
    arguments = {
        "transformers": "TrainingArguments(max_grad_norm=1.0)",
        "lightning": "Trainer(gradient_clip_val=1.0)",
    }
    evidence = "training"
    bottleneck = Bottleneck.OPTIMIZER
    threshold = Threshold(0.05, "share of the step spent at such lines")
    samples = Threshold(8, "samples of such lines below which they are not judged")

    def check(self, facts: Facts) -> Outcome:
        """Judge lines that clip gradients one by one."""
        stage, whole = facts.stages.get("other"), step_ms(facts)
        lines = [line for line in stage.lines if kind_of(line).rule == self.id] if stage else []
        took = sum(line.ms_per_step for line in lines)
        if not lines or took < self.threshold.value * whole:
            return None
        if facts.machine.asynchronous:
            return self.abstain("on an accelerator what such a loop costs is that it waits, which is sync/item's")
        tensors = sum(optimizer.tensors for optimizer in facts.settings.optimizers)
        if not tensors:
            return self.abstain("the optimizer's construction was not observed")
        if sum(optimizer.parameters for optimizer in facts.settings.optimizers) / tensors >= SMALL:
            return self.abstain("no gain was measured for tensors this large")
        if took < 1.5 * tensors * CALL_US / 1000 or not worth(facts, (1 - LEFT[0]) * took):
            return None
        seen = sum(line.samples for line in lines)
        if not all(line.measured for line in lines) and seen < self.samples.value:
            return self.abstain("too few samples of the lines that clip gradients were taken")
        error = sampling_error(seen, sum(line.share_of_stage for line in lines))
        line = min(lines, key=lambda line: (line.site.file, line.site.line))  # where the loop begins
        return self.finding(
            title=(
                f"clipping gradients in a loop takes {percent(took / whole)} of each {ms(whole)} step: "
                f"{place(line.site, facts)} `{line.source.strip()}`"
            ),
            why=(
                f"The training thread was at lines that take norms of gradients or scale them for {ms(took)} a step, "
                f"one of {number(tensors)} tensors after the other. One call does it in {percent(LEFT[0])} to "
                f"{percent(LEFT[1])} of that."
            ),
            evidence={"clip_ms": took, "clip_share": took / whole, "samples": float(seen), "step_ms": whole},
            fix=Fix.at(
                line.site,
                "Clip all gradients in one call.",
                "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)",
            ),
            gain=Gain.of(whole, (1 - LEFT[1]) * took * (1 - error), (1 - LEFT[0]) * took * (1 + error)),
            step_ms=whole,
        )
