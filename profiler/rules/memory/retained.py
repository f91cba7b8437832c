"""memory/retained."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.memory.snapshots import devices, is_cause, lines_in_words, on
from profiler.rules.phrases import counted, percent, size

MIB = 2**20


class Retained(Rule):
    """Each step leaves something on the device that later steps never free.

    ## Why it is slow
    It isn't until the memory is full; then the allocator gives its cache back again and again, and in the
    end the run is out of memory, hours in.

    ## Evidence
    In the events of a snapshot of torch's allocator, one line's allocations of at least three earlier steps
    were still held, together at least `threshold` of what was held and at least `least_mib`. What a line
    made once, however long it is kept, is not meant. It is critical where an allocation failed that asked
    for no more than that.

    ## Fix
    Keep `loss.detach()` or a number instead of a tensor that holds the graph of its step.

    ## Gain
    In bytes: all that earlier steps left.

    ## Reference
    PyTorch documentation, "Frequently Asked Questions": don't accumulate history across your training loop.
    """

    id = "memory/retained"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.02, "share of what was held that earlier steps left behind")
    least_mib = Threshold(16, "MiB that earlier steps left behind")

    def check(self, facts: Facts) -> Outcome:
        """Judge what earlier steps left on each device."""
        found = []
        for device in devices(facts):
            kept = [it for it in device.holdings if it.category == "retained"]
            held = device.categories_bytes.get("retained", 0)
            if not kept or held < max(self.threshold.value * device.held_bytes, self.least_mib.value * MIB):
                continue
            steps = max(it.steps for it in kept)
            lines = lines_in_words(kept, facts)
            made = f" It was made at {lines}." if lines else ""
            found.append(
                self.finding(
                    title=(
                        f"{size(held)} that {counted(steps, 'earlier step')} made are still held{on(device, facts)}, "
                        f"{size(held / steps)} a step"
                    ),
                    why=(
                        f"That is {percent(held / device.held_bytes)} of what was held.{made} Something keeps it: a "
                        "list of losses, a metric, a cache."
                    ),
                    evidence={
                        "retained_bytes": float(held),
                        "retained_share": held / device.held_bytes,
                        "per_step_bytes": held / steps,
                        "steps": float(steps),
                    },
                    fix=Fix.at(kept[0].site, "Keep a number or a detached tensor, not the graph.", _CODE),
                    severity=Severity.CRITICAL if is_cause(device) else Severity.WARNING,
                )
            )
        return found


_CODE = "losses.append(loss.detach())  # not `loss`, which holds the graph of its step"
