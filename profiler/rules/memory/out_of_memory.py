"""memory/out-of-memory."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.snapshot_facts import DeviceMemory, OutOfMemory
from profiler.rules.base import Bottleneck, Finding, Outcome, Rule, Severity
from profiler.rules.memory.snapshots import devices, fix_for, held_in_words, lines_in_words, on
from profiler.rules.phrases import counted, place, size

_SEGMENT_BYTES = 20 << 20  # the least that torch asks the driver for, from 1 MiB on


class OutOfMemoryError(Rule):
    """The device had no memory left for an allocation.

    ## Why it is slow
    It ends the run, or the batch that is skipped; what had been computed for it is lost.

    ## Evidence
    A snapshot of torch's allocator whose events hold a failed allocation. What was held then is found by
    going back from the state at the snapshot's end; what it was for, by the stacks of the allocations and
    by how long they were kept. A run under `prof attach` keeps the snapshot of each failure, with stacks where
    `memory_history` is set. Where enough bytes were free, and only in pieces too small, it is
    `memory/fragmentation` that speaks.

    ## Fix
    That of the largest category: checkpointing or smaller micro-batches for activations, sharing for
    parameters, gradients and optimizer states, `detach()` for what earlier steps left behind.

    ## Gain
    In bytes: half the micro-batch halves the activations; shared among N devices, all but 1/N of the states.

    ## Reference
    PyTorch documentation, "Understanding CUDA Memory Usage".
    """

    id = "memory/out-of-memory"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False

    def check(self, facts: Facts) -> Outcome:
        """Explain the last failure of each device."""
        return [
            self._finding(device, device.ooms[-1], facts)
            for device in devices(facts)
            if device.ooms and not device.ooms[-1].fragmented
        ]

    def _finding(self, device: DeviceMemory, failed: OutOfMemory, facts: Facts) -> Finding:
        where = f" in {failed.stage}" if failed.stage else ""
        line = f" at {place(failed.site, facts)}" if failed.site else ""
        top = next(iter(device.categories_bytes), None)
        lines = lines_in_words((it for it in device.holdings if it.category == top), facts)
        most = f" Most of the first was made at {lines}." if lines else ""
        times = f" It failed {counted(len(device.ooms), 'time')}." if len(device.ooms) > 1 else ""
        return self.finding(
            title=(
                f"out of memory{where}{line}{on(device, facts)}: {size(failed.requested_bytes)} were asked for, "
                f"with {size(failed.held_bytes)} held and {_left(failed)}"
            ),
            why=f"Held were {held_in_words(device)}.{most}{times}",
            evidence={
                "requested_bytes": float(failed.requested_bytes),
                "held_bytes": float(failed.held_bytes),
                "reserved_bytes": float(failed.layout.reserved_bytes),
                "driver_free_bytes": float(failed.driver_free_bytes),
            },
            fix=fix_for(device),
            severity=Severity.CRITICAL,
        )


def _left(failed: OutOfMemory) -> str:
    """What the device had left; where that was plenty, torch kept to a limit of its own."""
    left = size(failed.driver_free_bytes)
    if failed.driver_free_bytes < 2 * failed.requested_bytes + _SEGMENT_BYTES:
        return f"{left} left"
    return f"{left} of the device free: torch is kept to a part of it, as by set_per_process_memory_fraction"
