"""optimizer/for-loop."""

from __future__ import annotations

from profiler.analysis.facts import Facts, OptimizerSettings
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, number, percent

SMALL = 5_000  # parameters a tensor below which the cost of a call dominates its arithmetic

# What remains of the for-loop's time: (small tensors, large tensors), each (best, worst). See the docstring.
FUSED_LEFT = {
    "Adam": ((0.20, 0.30), (0.31, 0.45)),
    "AdamW": ((0.20, 0.30), (0.31, 0.45)),
    "Adagrad": ((0.30, 0.41), (0.36, 0.48)),
}
FOREACH_LEFT = {
    "SGD": (0.58, 0.70),
    "RMSprop": (0.55, 0.75),
    "NAdam": (0.70, 0.84),
    "RAdam": (0.49, 0.64),
    "Adamax": (0.54, 0.78),
    "Adadelta": (0.53, 0.77),
}


class ForLoop(Rule):
    """The optimizer updates parameters one tensor at a time.

    ## Why it is slow
    The for-loop implementation calls several small operators for each parameter tensor. On the CPU it is
    what torch.optim takes by default (`foreach` defaults to CUDA tensors only); on CUDA it runs where
    `foreach=False` was given.

    ## Evidence
    The optimizer is a class of torch.optim constructed without `fused=True` and without `foreach=True`, its
    tensors lie on the CPU (or `foreach=False` was given), and its `step()` is above `threshold` of the
    step. It abstains where `step()` was not timed apart from zero_grad and clipping, where several
    optimizers share the time and differ in what would help, and where the tensors lie on an accelerator,
    for which no gain was measured. It is silent where nothing better exists: SGD, RMSprop and their like
    with large tensors are bound by memory, and `foreach=True` made them slower.

    ## Fix
    `fused=True` for Adam, AdamW and Adagrad; `foreach=True` for SGD, RMSprop, NAdam, RAdam, Adamax and
    Adadelta with small tensors.

    ## Gain
    What remains of `step()`, measured on 2 cores, torch 2.13, 50 to 400 tensors of 64 to 200,000
    parameters, for-loop against fused and foreach in alternation: fused Adam and AdamW 0.20 to 0.28 of the
    for-loop below 5,000 parameters a tensor (0.10 to 0.29 within the step of a training), 0.32 to 0.44
    above; fused Adagrad 0.31 to 0.40 and 0.36 to 0.46; foreach, small tensors only: SGD 0.60 to 0.69,
    RMSprop 0.56 to 0.73, NAdam 0.71 to 0.82, RAdam 0.50 to 0.62, Adamax 0.56 to 0.76, Adadelta 0.54 to
    0.75. Above, foreach took 0.9 to 2.2 times as long, and is never advised.

    ## Reference
    torch.optim, "Algorithms: for-loop, foreach (multi-tensor) and fused".
    """

    id = "optimizer/for-loop"
    evidence = "training"
    bottleneck = Bottleneck.OPTIMIZER
    threshold = Threshold(0.05, "share of the step spent in the optimizer's step()")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether a faster implementation of the same update exists."""
        stage, whole = facts.stages.get("optimizer"), step_ms(facts)
        if stage is None or stage.share < self.threshold.value:
            return None
        optimizers = facts.settings.optimizers
        if not optimizers:
            return self.abstain("the optimizer's construction was not observed")
        if all(o.fused or o.foreach for o in optimizers):
            return None
        if "step" not in stage.parts_ms:
            return self.abstain("the optimizer's step() was not timed apart from zero_grad and clipping")
        update_ms = stage.parts_ms["step"]
        if update_ms < self.threshold.value * whole:
            return None
        if facts.machine.device != "cpu":
            chosen = any(o.foreach is False and not o.fused for o in optimizers)
            return self.abstain("no gain was measured for accelerators yet") if chosen else None
        options = {_option(optimizer) for optimizer in optimizers}
        if len(options) > 1:
            return self.abstain("several optimizers share the time and differ in what would help them")
        option = options.pop()
        if option is None:
            return None
        if any(o.groups > 1 and o.tensors < 2 * o.groups for o in optimizers):
            return self.abstain("its parameter groups hold about one tensor each, so that none can be updated together")
        argument, best, worst = option
        gain = Gain.of(whole, (1 - worst) * update_ms, (1 - best) * update_ms)
        if not worth(facts, whole - gain.step_ms_low):
            return None
        updated = _updated(optimizers)
        name = optimizers[0].name
        implementation = argument.split("=")[0]
        return self.finding(
            title=(
                f"{name}.step() takes {percent(update_ms / whole)} of each {ms(whole)} step, updating "
                f"{number(updated[0]) if updated else 'its'} tensors one by one"
            ),
            why=(
                f"{name} runs its for-loop, the default on CPU tensors: several small operators for each "
                + (f"of {number(updated[0])} tensors ({number(updated[1])} parameters), " if updated else "tensor, ")
                + f"{ms(update_ms)} a step. "
                f"Its {implementation} implementation makes the same update in {percent(best)} to "
                f"{percent(worst)} of that time."
            ),
            evidence={
                "optimizer_step_ms": update_ms,
                "optimizer_step_share": update_ms / whole,
                "step_ms": whole,
                **({"tensors": float(updated[0]), "parameters": float(updated[1])} if updated else {}),
            },
            fix=Fix.at(
                optimizers[0].site,
                f"Construct {name} with {argument}.",
                f"torch.optim.{name}(..., {argument})  # the other arguments stay",
            ),
            gain=gain,
            step_ms=whole,
        )


def _updated(optimizers: tuple[OptimizerSettings, ...]) -> tuple[int, int] | None:
    """Tensors and parameters that a step updates.

    None where several optimizers were made at one line: they may be of one step, or of trainings one after another.
    """
    if len({optimizer.site or optimizer.id for optimizer in optimizers}) < len(optimizers):
        return None
    return sum(optimizer.tensors for optimizer in optimizers), sum(optimizer.parameters for optimizer in optimizers)


def _option(optimizer: OptimizerSettings) -> tuple[str, float, float] | None:
    """The argument that helps, and the best and worst share of the for-loop's time that remains."""
    if optimizer.fused or optimizer.foreach or not optimizer.tensors:
        return None
    small = optimizer.parameters / optimizer.tensors < SMALL
    if optimizer.name in FUSED_LEFT:
        best, worst = FUSED_LEFT[optimizer.name][0 if small else 1]
        return "fused=True", best, worst
    if optimizer.name in FOREACH_LEFT and small:
        best, worst = FOREACH_LEFT[optimizer.name]
        return "foreach=True", best, worst
    return None
