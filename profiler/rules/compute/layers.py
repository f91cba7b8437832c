"""compute/bias-before-norm and frozen-parts-with-gradients: work whose result nobody uses."""

from __future__ import annotations

from typing import Any

from profiler.analysis.facts import Facts, RootSettings
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold
from profiler.rules.device import per_step
from profiler.rules.evidence import arithmetic_share, host_times, step_ms, worth
from profiler.rules.phrases import counted, joined, ms, number, percent

SAVED = (0.85, 1.0)  # of the part's backward
SAVED_FORWARD = (0.05, 0.3)  # of the part's forward on the CPU, which keeps nothing for backward any more


class BiasBeforeNorm(Rule):
    """Layers before a batch norm have a bias that it takes away again.

    ## Why it is slow
    Batch norm subtracts the mean of each channel, and the bias with it. Adding it, computing its gradient (a sum over
    the whole batch) and updating it is work for nothing, and a tensor more for the optimizer.

    ## Evidence
    At least `layers` convolutions or linear layers with a bias are registered right before a batch norm of as many
    channels, and the model's arithmetic takes at least `arithmetic` of the step. That they also run in this
    order is assumed, so that it is a note.

    ## Fix
    `bias=False` on those layers. The norm has a bias of its own.

    ## Gain
    Not promised: some hundredths of the step, with the sums in backward.

    ## Reference
    PyTorch performance tuning guide, "Disable bias for convolutions directly followed by a batch norm".
    """

    id = "compute/bias-before-norm"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    needs_device_times = False
    layers = Threshold(2, "such layers below which nothing is said")
    arithmetic = Threshold(0.5, "share of the step in the model's arithmetic")

    def check(self, facts: Facts) -> Outcome:
        """Judge biases that a norm takes away."""
        root = _model(facts)
        count = root.extra.get("biased_before_norm") if root else None
        if root is None or not isinstance(count, int) or count < self.layers.value:
            return None
        if not host_times(facts) and arithmetic_share(facts) < self.arithmetic.value:
            return None
        names: Any = root.extra.get("biased_before_norm_names")
        named = joined([str(name) for name in names]) if isinstance(names, list) else ""
        return self.finding(
            title=f"{counted(count, 'layer')} of {root.name} have a bias that the batch norm after them takes away",
            why=(
                f"{named}{' and others' if len(names or ()) < count else ''}: the norm subtracts the mean of each "
                f"channel and adds a bias of its own. Their gradients are summed over the batch in each step."
            ),
            evidence={"layers": float(count)},
            fix=Fix.at(
                root.site,
                "Make those layers without a bias.",
                "nn.Conv2d(64, 128, 3, bias=False), nn.BatchNorm2d(128)",
            ),
            severity=Severity.INFO,
        )


class FrozenPartsWithGradients(Rule):
    """Parameters that no optimizer updates still get gradients.

    ## Why it is slow
    Handing only the head's parameters to the optimizer freezes the rest, but autograd does not know: it keeps the
    rest's activations, computes the gradients of all its weights, and adds them up from step to step.

    ## Evidence
    Parameters that require gradients are in no optimizer, all of them come before the first that is in one, they are
    at least `part` of the model's parameters, and backward takes time. Where frozen parameters come after
    trained ones, gradients must pass through them: then it is a note without a promise.

    ## Fix
    `requires_grad_(False)` on the frozen part, and `eval()` if it has batch norms; `torch.no_grad()` around it.

    ## Gain
    85 % to 100 % of that part's share of backward, which is taken to be its share of the parameters that are
    trained or get gradients; and on the CPU 5 % to 30 % of its share of forward, which keeps nothing for backward any
    more (measured on 2 cores, torch 2.13, linear layers).

    ## Reference
    PyTorch notes, "Locally disabling gradient computation", "Setting requires_grad".
    """

    id = "compute/frozen-parts-with-gradients"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    needs_device_times = False
    part = Threshold(0.1, "share of the model's parameters that get gradients for nothing")

    def check(self, facts: Facts) -> Outcome:
        """Judge gradients that nobody uses."""
        root = _model(facts)
        unused = root.extra.get("not_updated_parameters") if root else None
        if root is None or not isinstance(unused, int) or not root.trainable_parameters:
            return None
        share = unused / root.trainable_parameters
        if share < self.part.value:
            return None
        first, before = root.extra.get("not_updated_first"), root.extra.get("not_updated_before")
        whole = step_ms(facts)
        title = f"{percent(share)} of {root.name}'s parameters get gradients, and no optimizer updates them"
        why = (
            f"{number(unused)} of {number(root.trainable_parameters)} parameters require gradients and are in no "
            f"optimizer, from {first or 'the first layer'} on."
        )
        evidence = {"not_updated_parameters": float(unused), "not_updated_share": share, "step_ms": whole}
        fix = Fix.at(root.site, "Switch gradients off for the part that is not trained.", _CODE.format(part=first))
        if before != unused:
            return self.finding(title, why, evidence, fix, severity=Severity.INFO)
        backward_ms = self._backward_ms(facts)
        if backward_ms is None:
            return self.abstain("how long backward takes on the device was not measured")
        forward_ms = 0.0 if facts.machine.asynchronous else facts.stage_ms("forward")
        low, high = (
            share * (of_backward * backward_ms + of_forward * forward_ms)
            for of_backward, of_forward in zip(SAVED, SAVED_FORWARD, strict=True)
        )
        if not worth(facts, high):
            return None
        return self.finding(
            title=title,
            why=f"{why} Backward takes {ms(backward_ms)} of each {ms(whole)} step.",
            evidence={**evidence, "backward_ms": backward_ms},
            fix=fix,
            gain=Gain.of(whole, low, high),
            step_ms=whole,
        )

    def _backward_ms(self, facts: Facts) -> float | None:
        if not facts.machine.asynchronous:
            return facts.stage_ms("backward")
        step = per_step(facts)
        if isinstance(step, str) or facts.device is None:
            return None
        return step.shortens(facts.device.stages_ms.get("backward", 0.0))


def _model(facts: Facts) -> RootSettings | None:
    return max(facts.settings.roots, key=lambda root: root.parameters, default=None)


_CODE = """\
model.{part}.requires_grad_(False)  # the part that is not trained
with torch.no_grad():
    features = backbone(inputs)  # where it is called apart
scores = head(features)"""
