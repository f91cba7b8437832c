"""memory/unused-capacity."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import STEPS_TO_JUDGE, share
from profiler.rules.memory.near_capacity import filled, on_accelerator
from profiler.rules.phrases import percent, size


class UnusedCapacity(Rule):
    """Most of the device's memory is never used.

    ## Why it is slow
    It may not be: but a small batch often leaves a device's units idle between many small kernels, and
    there is room for a larger one.

    ## Evidence
    Tensors held less than `used` of the capacity of an accelerator's memory at the peak, over a run long
    enough to have had its usual steps. It is silent where the loop waits for data for `waits` of the step,
    since larger batches don't come faster. Always a note: whether a larger batch suits the training is not
    in the record.

    ## Fix
    Double the batch, and compare the items a second.

    ## Gain
    Not promised: it is to be measured, and the learning rate may have to follow the batch.

    ## Reference
    Goyal et al., "Accurate, Large Minibatch SGD", 2017, on the learning rate.
    """

    id = "memory/unused-capacity"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    used = Threshold(0.3, "share of the capacity below which it is told")
    waits = Threshold(0.1, "share of the step spent waiting for data from which nothing is said")

    def check(self, facts: Facts) -> Outcome:
        """Judge how much of the device's memory was never used."""
        if facts.steps is None or facts.steps.measured < STEPS_TO_JUDGE or not on_accelerator(facts):
            return None
        memory = filled(facts)
        if isinstance(memory, str):
            return self.abstain(memory)
        if memory.share >= self.used.value or share(facts, "data_wait") >= self.waits.value:
            return None
        loader = facts.settings.training_loader
        size_now = loader.batch_size if loader else None
        batch = f" A batch has {size_now} items." if size_now else ""
        code = (
            f"DataLoader(dataset, batch_size={2 * size_now}, ...)  # was {size_now}; watch the loss"
            if size_now
            else "batch_size *= 2  # and watch the loss"
        )
        return self.finding(
            title=(
                f"{percent(1 - memory.share)} of {memory.where} is never used: the peak is "
                f"{size(memory.used_bytes)} of {size(memory.capacity_bytes)}"
            ),
            why=f"Tensors held {size(memory.used_bytes)} at the most.{batch} There is room for a larger one.",
            evidence={
                "used_bytes": float(memory.used_bytes),
                "capacity_bytes": float(memory.capacity_bytes),
                "used_share": memory.share,
            },
            fix=Fix.at(loader.site if loader else None, "Try a batch twice as large; compare items a second.", code),
            severity=Severity.INFO,
        )
