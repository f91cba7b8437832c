"""memory/fragmentation."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.snapshot_facts import DeviceMemory
from profiler.rules.base import Bottleneck, Finding, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.memory.near_capacity import on_accelerator
from profiler.rules.memory.snapshots import devices, is_cause, on
from profiler.rules.phrases import percent, size

MIB = 2**20


class Fragmentation(Rule):
    """Reserved memory lies free in pieces that are too small.

    ## Why it is slow
    The allocator can't give back a segment of which any block is held, nor join what is free across
    segments: it asks the driver for more, which synchronizes, and in the end fails with bytes to spare.

    ## Evidence
    A snapshot of torch's allocator, or without one its statistics while the steps ran. Where an allocation failed
    although more bytes were free in what was reserved, in no piece of its size, that is the cause, and critical;
    where earlier steps kept more than it asked for (`memory/retained`), a warning. Else, at the moment with most
    memory held, free blocks within segments in use (the inactive split blocks of `torch.cuda.memory_stats`) were
    at least `threshold` of the reserved memory and at least `least_mib`: a note, and a warning where the
    allocator had to give its cache back and ask again.

    ## Fix
    Segments that can grow (`expandable_segments`), which join what is free; where they are on already, sizes
    that vary less: batches padded to few lengths.

    ## Gain
    In bytes: at most what is free in pieces.

    ## Reference
    PyTorch documentation, "CUDA semantics: Optimizing memory usage with PYTORCH_CUDA_ALLOC_CONF".
    """

    id = "memory/fragmentation"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.2, "share of the reserved memory that is free in segments in use")
    least_mib = Threshold(512, "MiB free in segments in use")

    def check(self, facts: Facts) -> Outcome:
        """Judge each device's layout at its moment; without a snapshot, what the allocator said while steps ran."""
        if not devices(facts):
            return self._live(facts)
        return [it for device in devices(facts) if (it := self._of(device, facts)) is not None]

    def _of(self, device: DeviceMemory, facts: Facts) -> Finding | None:
        layout = device.layout
        failed = device.ooms[-1] if device.ooms and device.ooms[-1].fragmented else None
        much = layout.split_bytes >= max(self.threshold.value * layout.reserved_bytes, self.least_mib.value * MIB)
        if failed is None and not much:
            return None
        if failed is not None:
            title = (
                f"{size(failed.requested_bytes)} could not be had{on(device, facts)} though {size(layout.free_bytes)} "
                f"were free: the largest piece was {size(layout.largest_free_bytes)}"
            )
            severity = Severity.WARNING if is_cause(device) else Severity.CRITICAL
        else:
            title = (
                f"{percent(layout.split_share)} of the reserved {size(layout.reserved_bytes)}{on(device, facts)} "
                f"is free in pieces between blocks in use: {size(layout.split_bytes)}"
            )
            severity = Severity.WARNING if device.retries else Severity.INFO
        return self.finding(
            title=title,
            why=(
                f"Tensors held {size(layout.held_bytes)} of {size(layout.reserved_bytes)} that were reserved in "
                f"{layout.segments:,} segments. {size(layout.free_bytes)} were free, the largest piece "
                f"{size(layout.largest_free_bytes)}; {size(layout.split_bytes)} lay in segments in use, which can't "
                "be given back to the driver."
            ),
            evidence={
                "reserved_bytes": float(layout.reserved_bytes),
                "free_bytes": float(layout.free_bytes),
                "largest_free_bytes": float(layout.largest_free_bytes),
                "split_share": layout.split_share,
            },
            fix=_STEADY if device.expandable else _EXPAND,
            severity=severity,
        )

    def _live(self, facts: Facts) -> Outcome:
        """By the allocator's inactive split blocks while the steps ran."""
        memory = facts.memory
        if facts.steps is None or not on_accelerator(facts):
            return []
        free, reserved = memory.inactive_bytes, memory.reserved_device_bytes
        if free is None or not reserved:
            return self.abstain("the device's allocator did not say what lies free in segments in use")
        if free < max(self.threshold.value * reserved, self.least_mib.value * MIB):
            return []
        return self.finding(
            title=f"{percent(free / reserved)} of the reserved {size(reserved)} was free in pieces: {size(free)}",
            why=(
                f"At its worst {size(free)} of the {size(reserved)} that torch had reserved lay free between blocks in "
                "use, in segments that can't be given back to the driver."
            ),
            evidence={"reserved_bytes": float(reserved), "split_share": free / reserved},
            fix=_EXPAND,
            severity=Severity.WARNING if memory.alloc_retries else Severity.INFO,
        )


_EXPAND = Fix(
    "Let segments grow, so that what is free can be joined.",
    "# before the first tensor on the device; PYTORCH_ALLOC_CONF from torch 2.9 on\n"
    'os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"',
)
_STEADY = Fix(
    "Segments can grow already: make sizes vary less, by padding batches to a few lengths.",
    "length = -(-length // 64) * 64  # pad to the next multiple of 64",
)
