"""memory/allocation-retries."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Outcome, Rule, Severity, Threshold
from profiler.rules.memory.snapshots import devices, fix_for, held_in_words, on
from profiler.rules.phrases import counted, size


class AllocationRetries(Rule):
    """The allocator gives its cache back and asks the driver again.

    ## Why it is slow
    The driver refused, so that every cached segment was freed and the allocation tried once more: each
    of these calls waits for the device, and what was freed is soon asked for again.

    ## Evidence
    In the events of a snapshot of torch's allocator, cached segments were freed and a segment asked for at
    once, at least `threshold` times; a call of `torch.cuda.empty_cache()` is no such time. Events without
    stacks can't tell the two apart, so that there only a failure counts.

    ## Fix
    Less memory at the peak: that of the largest category.

    ## Gain
    Not promised: a snapshot does not time the driver's calls.

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
        """Count the retries of each device."""
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
