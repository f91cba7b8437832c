"""memory/activations-dominate."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.snapshot_facts import DeviceMemory
from profiler.rules.base import Bottleneck, Finding, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.memory.near_capacity import ACCUMULATE, NEAR, filled
from profiler.rules.memory.snapshots import CHECKPOINT, fix_for, held_in_words, lines_in_words, on
from profiler.rules.phrases import percent, size


class ActivationsDominate(Rule):
    """What forward keeps for backward fills most of the memory.

    ## Why it is slow
    It isn't by itself: but activations grow with the batch, and are what bounds the batch's size.

    ## Evidence
    In the one step whose memory was looked at, activations were at least `threshold` of parameters,
    gradients, optimizer states and activations, and at least `of_capacity` of the memory's capacity: less
    is worth no change. It is a note, and a warning where memory was nearly full (`near`). In a snapshot of
    torch's allocator it is what was held at the peak, whose capacity is not known: a note.

    ## Fix
    Recompute them in backward (`torch.utils.checkpoint`), or take smaller micro-batches and accumulate.

    ## Gain
    In bytes: a checkpointed block keeps its input alone, and half the micro-batch keeps half. Checkpointing
    costs up to one more forward of what is checkpointed, so that steps get longer unless the batch grows.

    ## Reference
    torch.utils.checkpoint; Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """

    id = "memory/activations-dominate"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    explained_by = ("memory/growth",)
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.6, "share of activations in what the step held")
    of_capacity = Threshold(0.25, "share of the capacity that activations take")
    near = Threshold(NEAR, "share of the capacity in use from which it is a warning")

    def check(self, facts: Facts) -> Outcome:
        """Judge activations against the other categories and the capacity."""
        if facts.steps is None and facts.snapshot is not None:
            return [it for device in facts.snapshot.devices if (it := self._of_snapshot(device, facts)) is not None]
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
                CHECKPOINT + "\n# or, in the loop:\n" + ACCUMULATE,
            ),
            severity=Severity.WARNING if memory.on_device and memory.share >= self.near.value else Severity.INFO,
        )

    def _of_snapshot(self, device: DeviceMemory, facts: Facts) -> Finding | None:
        activations = device.categories_bytes.get("activations", 0)
        if device.ooms or activations < self.threshold.value * device.held_bytes or not activations:
            return None  # out of memory, the failure's own rule says it
        lines = lines_in_words((it for it in device.holdings if it.category == "activations"), facts, most=3)
        return self.finding(
            title=(
                f"activations take {size(activations)}, {percent(activations / device.held_bytes)} of what was held "
                f"at the peak{on(device, facts)}"
            ),
            why=f"Held were {held_in_words(device)}." + (f" Most of the first was made at {lines}." if lines else ""),
            evidence={
                "activations_bytes": float(activations),
                "activations_share": activations / device.held_bytes,
                "held_bytes": float(device.held_bytes),
            },
            fix=fix_for(device),
            severity=Severity.INFO,
        )
