"""memory/allocation-retries."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.memory.near_capacity import ACCUMULATE, on_accelerator
from profiler.rules.memory.snapshots import devices, fix_for, held_in_words, on
from profiler.rules.phrases import counted, size


class AllocationRetries(Rule):
    """The allocator gives its cache back and asks the driver again.

    ## Why it is slow
    The driver refused, so that every cached segment was freed and the allocation tried once more: each
    of these calls waits for the device, and what was freed is soon asked for again.

    ## Evidence
    The allocator's own count of retries rose by at least `threshold` while the steps ran. Or, where there is a
    snapshot of torch's allocator: in its events cached segments were freed and a segment asked for at once, at
    least `threshold` times; a call of `torch.cuda.empty_cache()` is no such time, and events without stacks
    can't tell the two apart, so that there only a failure counts. It abstains where an accelerator's allocator
    does not count.

    ## Fix
    Less memory at the peak: that of the largest category.

    ## Gain
    Not promised: nobody times the driver's calls.

    ## Reference
    torch.cuda.memory_stats: `num_alloc_retries`.
    """

    id = "memory/allocation-retries"
    bottleneck = Bottleneck.MEMORY
    explained_by = ("memory/fragmentation", "memory/out-of-memory")
    per_step = False
    needs_device_times = False
    threshold = Threshold(1, "times that the cache was given back to ask again")

    def check(self, facts: Facts) -> Outcome:
        """Count the retries of each device of a snapshot, or those of the run."""
        if not devices(facts):
            return self._live(facts)
        return [
            self.finding(
                title=(
                    f"{counted(device.retries, 'time')} the device had no memory{on(device, facts)} until everything "
                    "cached was given back"
                ),
                why=(
                    f"At its fullest {size(device.held_bytes)} were held: {held_in_words(device)}. Each time all "
                    "cached segments were freed, and memory asked of the driver anew, which waits for the device."
                ),
                evidence={
                    "retries": float(device.retries),
                    "driver_calls": float(device.driver_calls),
                    "held_bytes": float(device.held_bytes),
                },
                fix=fix_for(device),
                severity=Severity.WARNING,
            )
            for device in devices(facts)
            if device.retries >= self.threshold.value
        ]

    def _live(self, facts: Facts) -> Outcome:
        """By the allocator's count while the steps ran."""
        retries, steps = facts.memory.alloc_retries, facts.steps
        if steps is None or not on_accelerator(facts):
            return []
        if retries is None:
            return self.abstain("the device's allocator did not say how often it had to ask again")
        if retries < self.threshold.value:
            return []
        peak, capacity = facts.memory.peak_device_bytes, facts.memory.device_capacity_bytes
        full = f" At the peak tensors held {size(peak)} of {size(capacity)}." if peak and capacity else ""
        return self.finding(
            title=(
                f"{counted(retries, 'time')} in {counted(steps.measured, 'step')} the device had no memory until "
                "everything cached was given back"
            ),
            why=("Each time torch waited for the device, freed every cached segment and asked the driver anew." + full),
            evidence={
                "retries": float(retries),
                "steps": float(steps.measured),
                **({"held_bytes": float(peak)} if peak else {}),
            },
            fix=Fix("Halve the micro-batch and accumulate gradients over two of them.", ACCUMULATE),
            severity=Severity.WARNING,
        )
