"""memory/gradients-kept, late-del and reference-cycles: what one step holds over into the next."""

from __future__ import annotations

from profiler.analysis.facts import Facts, RootSettings
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.phrases import percent, size

MIB = 2**20


class GradientsKept(Rule):
    """The gradients of the last step are still there while the next forward runs.

    ## Why it is slow
    Activations are most at the end of forward, gradients at the end of backward. Where `zero_grad()` is called
    between the two, both lie in memory at once, though the gradients were used up by the last `step()`.

    ## Evidence
    In the step that was looked at closely, gradients of the step before existed when the first forward ended. What
    could be freed, the smaller of them and the activations, is at least `threshold` of parameters, gradients,
    optimizer states and activations together, and at least `least_mib`. It abstains on several ranks, where
    gradients may be views of buckets that stay.

    ## Fix
    `zero_grad()` right after `step()`, or before the forward; `set_to_none=True` is its default.

    ## Gain
    In bytes: the smaller of the gradients and the activations. Steps do not get shorter.

    ## Reference
    torch.optim.Optimizer.zero_grad, "set_to_none".
    """

    id = "memory/gradients-kept"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.10, "share of what a step holds that could be freed")
    least_mib = Threshold(64, "MiB that could be freed")

    def check(self, facts: Facts) -> Outcome:
        """Judge gradients that outstay their step."""
        memory = facts.memory
        held = memory.gradients_in_forward_bytes
        activations = memory.categories_bytes.get("activations")
        if not held or not activations:
            return None
        frees, whole = min(held, activations), _whole(facts)
        if not _enough(self, frees, whole):
            return None
        if facts.run.ranks > 1:
            return self.abstain("on several ranks gradients may be views of buckets that stay")
        stage = facts.stages.get("optimizer")
        sampled = next((line.site for line in stage.lines if "zero_grad" in line.source), None) if stage else None
        noted = stage.part_calls.get("zero_grad") if stage else None  # its first call, before the training perhaps
        return self.finding(
            title=f"{size(held)} of the last step's gradients are still there while the next forward runs",
            why=(
                f"Forward keeps {size(activations)} for backward beside them. Without them the step would hold up to "
                f"{size(frees)} less at its peak, {percent(frees / whole)} of what it holds."
            ),
            evidence={
                "gradients_bytes": float(held),
                "activations_bytes": float(activations),
                "frees_bytes": float(frees),
            },
            fix=Fix.at(
                sampled or noted,
                "Drop the gradients as soon as the optimizer has used them.",
                "optimizer.step()\noptimizer.zero_grad()  # here, and not between forward and backward",
            ),
            severity=Severity.INFO,
        )


class LateDel(Rule):
    """The outputs of the last step are still there while the next forward runs.

    ## Why it is slow
    A name like `logits` keeps its tensor until it is bound to the next one, which is after the next forward: for so
    long both exist. With a large vocabulary or large images that is a good part of the memory.

    ## Evidence
    Tensors that the model returned in the step that was looked at closely still existed when the next forward began,
    and were gone after the next step. They take at least `threshold` of parameters, gradients, optimizer states and
    activations together, and at least `least_mib`.

    ## Fix
    `del` after the last use, or a function for the step, whose names end with it.

    ## Gain
    In bytes: these tensors. Steps do not get shorter.

    ## Reference
    PyTorch FAQ, "My model reports out of memory": don't hold onto tensors you don't need.
    """

    id = "memory/late-del"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.05, "share of what a step holds")
    least_mib = Threshold(64, "MiB of such outputs")

    def check(self, facts: Facts) -> Outcome:
        """Judge outputs that outstay their step."""
        held = (facts.memory.outputs_held_bytes or 0) - (facts.memory.outputs_outlived_bytes or 0)
        whole = _whole(facts)
        if not _enough(self, held, whole):
            return None
        root = _model(facts)
        return self.finding(
            title=f"{size(held)} of the last step's outputs are still there while the next forward runs",
            why=(
                f"The name that holds them is bound anew only when the next forward has returned. They are "
                f"{percent(held / whole)} of what a step holds, beside the outputs that forward is about to make."
            ),
            evidence={"held_bytes": float(held), "held_share": held / whole},
            fix=Fix.at(
                root.site if root else None,
                "Delete outputs after their last use.",
                "loss.backward()\ndel logits, loss  # whatever the model returned; or make the step a function",
            ),
            severity=Severity.INFO,
        )


class ReferenceCycles(Rule):
    """Outputs of a step live on after the next one, and not because a list grows.

    ## Why it is slow
    Tensors in a reference cycle (a module that keeps its outputs, a closure, an exception's traceback) are freed only
    when the garbage collector comes by; until then several steps' outputs lie in memory. Python does not know how
    large they are, and is in no hurry.

    ## Evidence
    Tensors that the model returned in the step that was looked at closely still existed after the next step had
    ended, at least `threshold` of parameters, gradients, optimizer states and activations together and at least
    `least_mib`. Memory did not grow steadily, and no list of graphs was found: those have rules of their own.

    ## Fix
    Break the cycle: no outputs as attributes of modules, `weakref`, `del` in a `finally`. `gc.collect()` every few
    hundred steps tells whether it is one. A buffer of the last outputs that is meant is no fault.

    ## Gain
    In bytes: these tensors, and as much for each further step until garbage is collected.

    ## Reference
    Python documentation, gc; PyTorch memory docs, "Understanding CUDA Memory Usage", reference cycles.
    """

    id = "memory/reference-cycles"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    explained_by = ("memory/growth", "memory/kept-graph", "memory/retained")
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.05, "share of what a step holds")
    least_mib = Threshold(64, "MiB of such outputs")

    def check(self, facts: Facts) -> Outcome:
        """Judge outputs that outlive the next step."""
        memory, whole = facts.memory, _whole(facts)
        outlived = memory.outputs_outlived_bytes or 0
        if not _enough(self, outlived, whole):
            return None
        if memory.growth_bytes_per_step or memory.kept_graphs:
            return None
        if "memory growth" in facts.not_measured:
            return self.abstain("whether memory grows was not measured")
        root = _model(facts)
        return self.finding(
            title=f"{size(outlived)} of a step's outputs are still there after the next step",
            why=(
                "Something other than the loop's own names holds them, and memory does not grow for it: a reference "
                "cycle, which the garbage collector must find, or a buffer of the last outputs."
            ),
            evidence={"outlived_bytes": float(outlived), "outlived_share": outlived / whole},
            fix=Fix.at(
                root.site if root else None,
                "Find what keeps them, and let it go.",
                "import gc\n\n# which object holds an output of the last step, two steps later?\n"
                "print([type(holder) for holder in gc.get_referrers(output)])",
            ),
            severity=Severity.INFO,
        )


def _whole(facts: Facts) -> int:
    """What a step holds, by the categories that were measured."""
    return sum(facts.memory.categories_bytes.values())


def _enough(rule: GradientsKept | LateDel | ReferenceCycles, held: int, whole: int) -> bool:
    """Whether so much of what a step holds is worth a word; never where that was not measured."""
    return whole > 0 and held >= max(rule.threshold.value * whole, rule.least_mib.value * MIB)


def _model(facts: Facts) -> RootSettings | None:
    return max(facts.settings.roots, key=lambda root: root.parameters, default=None)
