"""What the rules of memory ask of a snapshot of torch's allocator."""

from __future__ import annotations

from collections.abc import Iterable

from profiler.analysis.facts import Facts
from profiler.analysis.snapshot_facts import DeviceMemory, Holding
from profiler.rules.base import Fix
from profiler.rules.memory.near_capacity import ACCUMULATE
from profiler.rules.phrases import counted, joined, percent, place, size

WORDS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "retained": "kept from earlier steps",
    "loaded": "read by torch.load",
    "communication": "communication buffers",
    "workspace": "workspace",
    "other": "other",
    "before_recording": "held before the recording",
    "unknown": "not known",
}
CHECKPOINT = """\
from torch.utils.checkpoint import checkpoint

for block in self.blocks:  # in the model's forward
    x = checkpoint(block, x, use_reentrant=False)
"""
_DETACH = """\
losses.append(loss.detach())  # not `loss`, which holds the graph of its step; or loss.item() now and then"""


def devices(facts: Facts) -> tuple[DeviceMemory, ...]:
    """The devices of the snapshot, if one was taken."""
    return facts.snapshot.devices if facts.snapshot else ()


def on(device: DeviceMemory, facts: Facts) -> str:
    """` on device 1`, where there are several."""
    return f" on device {device.device}" if len(devices(facts)) > 1 else ""


def is_cause(device: DeviceMemory) -> bool:
    """Whether the last failure would not have been, had earlier steps kept nothing."""
    return bool(device.ooms) and device.categories_bytes.get("retained", 0) >= device.ooms[-1].requested_bytes


def held_in_words(device: DeviceMemory, most: int = 3) -> str:
    """`activations 12.0 GiB (61 %), …`: the largest categories of what was held."""
    if not set(device.categories_bytes) - {"unknown", "before_recording"}:
        return f"{size(device.held_bytes)}; what for is not known, since no stacks were recorded"
    whole = device.held_bytes or 1
    items = list(device.categories_bytes.items())[:most]
    return joined(f"{WORDS[name]} {size(held)} ({percent(held / whole)})" for name, held in items)


def largest(device: DeviceMemory, category: str) -> Holding | None:
    """The line that holds most of a category, of those that have a line of the user's."""
    return next((it for it in device.holdings if it.category == category and it.site), None)


def lines_in_words(holdings: Iterable[Holding], facts: Facts, most: int = 2) -> str:
    """`model.py:12 (80 MiB in 4 tensors) and …`."""
    shown = [it for it in holdings if it.site is not None][:most]
    return joined(
        f"{place(it.site, facts)} ({size(it.bytes)} in {counted(it.count, 'tensor')})" for it in shown if it.site
    )


def fix_for(device: DeviceMemory) -> Fix:
    """What makes the largest part of what was held smaller, where anything does."""
    for category in device.categories_bytes:
        if category == "activations":
            line = largest(device, category)
            return Fix.at(
                line.site if line else None,
                "Checkpoint the model's blocks, or halve the micro-batch and accumulate.",
                CHECKPOINT + "\n# or, in the loop:\n" + ACCUMULATE,
            )
        if category == "retained":
            line = largest(device, category)
            return Fix.at(line.site if line else None, "Let go of what a step made once the step is over.", _DETACH)
        if category in ("optimizer", "gradients", "parameters"):
            return Fix(
                "Share parameters, gradients and optimizer states among several devices, or take a smaller optimizer.",
                "from torch.distributed.fsdp import fully_shard\n\n"
                "for block in model.blocks:\n    fully_shard(block)\nfully_shard(model)",
            )
        if category == "loaded":
            line = largest(device, category)
            return Fix.at(
                line.site if line else None,
                "Read the checkpoint into the CPU's memory and let go of it once it is copied.",
                'state = torch.load(path, map_location="cpu", mmap=True)\nmodel.load_state_dict(state)\ndel state',
            )
    return Fix("Halve the micro-batch and accumulate gradients over two of them.", ACCUMULATE)
