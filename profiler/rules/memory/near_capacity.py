"""memory/near-capacity, and how full memory got, which its neighbours ask too."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.phrases import percent, size

NEAR = 0.90  # of the capacity, from which memory is called nearly full


@dataclass(frozen=True, slots=True)
class Filled:
    """How much of what holds the tensors was in use at the peak."""

    where: str
    used_bytes: int
    capacity_bytes: int
    on_device: bool

    @property
    def share(self) -> float:
        """Of the capacity."""
        return self.used_bytes / self.capacity_bytes


def on_accelerator(facts: Facts) -> bool:
    """Whether the tensors lie in the memory of a device of its own."""
    return facts.machine.asynchronous or facts.machine.device != "cpu"


def filled(facts: Facts) -> Filled | str:
    """How full memory got, or why that can't be told."""
    memory, machine = facts.memory, facts.machine
    if on_accelerator(facts):
        if not memory.device_capacity_bytes:
            return "the capacity of the device's memory is not known"
        if memory.peak_device_bytes is None:
            return facts.not_measured.get("memory", "no reading of the device's memory was taken")
        return Filled("the device's memory", memory.peak_device_bytes, memory.device_capacity_bytes, True)
    if machine.memory_bytes <= 0:
        return "the size of the machine's memory is not known"
    if memory.peak_rss_bytes is None:
        return facts.not_measured.get("memory", "no reading of the process's memory was taken")
    return Filled("the machine's memory", memory.peak_rss_bytes, machine.memory_bytes, False)


class NearCapacity(Rule):
    """Memory is nearly full at the peak of the step.

    ## Why it is slow
    Near the end of a device's memory the allocator gives blocks back and asks for them anew, and one longer
    batch ends the run. A machine without free memory drops its file cache, then swaps, then kills.

    ## Evidence
    The highest number of bytes that tensors held on the device reached `note` of its capacity; from `warn`
    on it is a warning: to fill a device is no fault, to have no room left is. On a CPU it is the resident
    memory of the training process alone, and only told, since files that are mapped count in it and can be
    dropped. Workers are left out, for the pages that they share would count several times.

    ## Fix
    Smaller micro-batches with gradients accumulated over several of them, or checkpointing of activations.

    ## Gain
    In bytes: half the micro-batch halves the activations. Steps themselves may not get shorter.

    ## Reference
    PyTorch documentation, "CUDA semantics: Memory management".
    """

    id = "memory/near-capacity"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    explained_by = ("memory/growth",)
    per_step = False
    needs_device_times = False
    note = Threshold(NEAR, "share of the capacity from which it is told")
    warn = Threshold(0.97, "share of a device's capacity from which it is a warning")

    def check(self, facts: Facts) -> Outcome:
        """Judge how full memory got."""
        if facts.steps is None:
            return None
        memory = filled(facts)
        if isinstance(memory, str):
            return self.abstain(memory)
        if memory.share < self.note.value:
            return None
        free = memory.capacity_bytes - memory.used_bytes
        holder = "Tensors" if memory.on_device else "The training process"
        reserved = facts.memory.reserved_device_bytes
        kept = f" PyTorch keeps {size(reserved)} of the device for them." if memory.on_device and reserved else ""
        mapped = "" if memory.on_device else " Files that are mapped into memory count in this."
        return self.finding(
            title=(
                f"{memory.where} is {percent(memory.share)} full at its peak: "
                f"{size(memory.used_bytes)} of {size(memory.capacity_bytes)}"
            ),
            why=f"{holder} held {size(memory.used_bytes)}, which leaves {size(max(free, 0))}.{kept}{mapped}",
            evidence={
                "used_bytes": float(memory.used_bytes),
                "capacity_bytes": float(memory.capacity_bytes),
                "used_share": memory.share,
            },
            fix=Fix("Halve the micro-batch and accumulate gradients over two of them.", ACCUMULATE),
            severity=Severity.WARNING if memory.on_device and memory.share >= self.warn.value else Severity.INFO,
        )


ACCUMULATE = """\
for number, (inputs, targets) in enumerate(loader):  # batch_size halved
    loss = criterion(model(inputs), targets) / 2
    loss.backward()
    if number % 2 == 1:
        optimizer.step()
        optimizer.zero_grad()"""
