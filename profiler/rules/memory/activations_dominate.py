"""memory/activations-dominate."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.memory.near_capacity import ACCUMULATE, NEAR, filled
from profiler.rules.phrases import percent, size


class ActivationsDominate(Rule):
    """What forward keeps for backward fills most of the memory.

    ## Why it is slow
    It isn't by itself: but activations grow with the batch, and are what bounds the batch's size.

    ## Evidence
    In the one step whose memory was looked at, activations were at least `threshold` of parameters,
    gradients, optimizer states and activations, and at least `of_capacity` of the memory's capacity: less
    is worth no change. It is a note, and a warning where memory was nearly full (`near`).

    ## Fix
    Recompute them in backward (`torch.utils.checkpoint`), or take smaller micro-batches and accumulate.

    ## Gain
    In bytes: a checkpointed block keeps its input alone, and half the micro-batch keeps half. Checkpointing
    costs up to one more forward of what is checkpointed, so that steps get longer unless the batch grows.

    ## Reference
    torch.utils.checkpoint; Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """

    id = "memory/activations-dominate"
    bottleneck = Bottleneck.MEMORY
    explained_by = ("memory/growth",)
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.6, "share of activations in what the step held")
    of_capacity = Threshold(0.25, "share of the capacity that activations take")
    near = Threshold(NEAR, "share of the capacity in use from which it is a warning")

    def check(self, facts: Facts) -> Outcome:
        """Judge activations against the other categories and the capacity."""
        if facts.steps is None:
            return None
        categories = facts.memory.categories_bytes
        activations = categories.get("activations")
        if activations is None:
            return self.abstain(
                facts.not_measured.get("activations")
                or facts.not_measured.get("memory categories", "activations were not measured")
            )
        held = sum(categories.values())
        if held <= 0 or activations < self.threshold.value * held:
            return None
        memory = filled(facts)
        if isinstance(memory, str):
            return self.abstain(memory)
        if activations < self.of_capacity.value * memory.capacity_bytes:
            return None
        largest = next(iter(facts.memory.activations_by_module), None)
        most = f" The most of them, {size(largest[1])}, are kept by {largest[0]}." if largest else ""
        models = [root for root in facts.settings.roots if not root.is_loss]
        model = max(models, key=lambda root: root.parameters, default=None)
        return self.finding(
            title=(
                f"activations take {size(activations)}, {percent(activations / held)} of what a step holds "
                f"and {percent(activations / memory.capacity_bytes)} of {memory.where}"
            ),
            why=(
                f"Forward kept {size(activations)} for backward, beside {size(categories.get('parameters', 0))} of "
                f"parameters, {size(categories.get('gradients', 0))} of gradients and "
                f"{size(categories.get('optimizer', 0))} of optimizer states.{most} "
                f"At its peak {memory.where} was {percent(memory.share)} full."
            ),
            evidence={
                "activations_bytes": float(activations),
                "activations_share": activations / held,
                "capacity_bytes": float(memory.capacity_bytes),
                "used_share": memory.share,
            },
            fix=Fix.at(
                model.site if model else None,
                "Where a larger batch or model is wanted, checkpoint the model's blocks, or halve the micro-batch "
                "and accumulate.",
                _CHECKPOINT + ACCUMULATE,
            ),
            severity=Severity.WARNING if memory.on_device and memory.share >= self.near.value else Severity.INFO,
        )


_CHECKPOINT = """\
from torch.utils.checkpoint import checkpoint

for block in self.blocks:  # in the model's forward
    x = checkpoint(block, x, use_reentrant=False)

# or, in the loop:
"""
