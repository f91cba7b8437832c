"""memory/optimizer-states-dominate."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.snapshot_facts import DeviceMemory
from profiler.rules.base import Bottleneck, Finding, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.memory.near_capacity import NEAR, filled
from profiler.rules.memory.snapshots import held_in_words, on
from profiler.rules.phrases import counted, percent, size


class OptimizerStatesDominate(Rule):
    """The optimizer's states fill much of the memory.

    ## Why it is slow
    It isn't by itself: but Adam keeps two numbers for each parameter, whatever the batch, and a smaller
    batch does not free them.

    ## Evidence
    In the one step whose memory was looked at, optimizer states were at least `threshold` of parameters,
    gradients, optimizer states and activations, and at least `of_capacity` of the memory's capacity: less
    is worth no change. It is a note, and a warning where memory was nearly full (`near`). In a snapshot of
    torch's allocator it is what was held at the peak, whose capacity is not known: a note.

    ## Fix
    Share the states among the processes where there are several; else an optimizer with smaller states.

    ## Gain
    In bytes: shared among N processes, all but 1/N of the states; with Adafactor, nearly all of them for
    matrices, at the price of another update rule.

    ## Reference
    torch.distributed.optim.ZeroRedundancyOptimizer; torch.optim.Adafactor.
    """

    id = "memory/optimizer-states-dominate"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.4, "share of optimizer states in what the step held")
    of_capacity = Threshold(0.2, "share of the capacity that optimizer states take")
    near = Threshold(NEAR, "share of the capacity in use from which it is a warning")

    def check(self, facts: Facts) -> Outcome:
        """Judge the optimizer's states against the other categories and the capacity."""
        if facts.steps is None and facts.snapshot is not None:
            return [it for device in facts.snapshot.devices if (it := self._of_snapshot(device, facts)) is not None]
        if facts.steps is None:
            return None
        categories = facts.memory.categories_bytes
        states = categories.get("optimizer")
        if states is None:
            return self.abstain(facts.not_measured.get("memory categories", "optimizer states were not measured"))
        if "activations" not in categories:
            return self.abstain(facts.not_measured.get("activations", "activations were not measured"))
        held = sum(categories.values())
        if held <= 0 or states < self.threshold.value * held:
            return None
        memory = filled(facts)
        if isinstance(memory, str):
            return self.abstain(memory)
        if states < self.of_capacity.value * memory.capacity_bytes:
            return None
        largest = max(facts.settings.optimizers, key=lambda optimizer: optimizer.parameters, default=None)
        name = largest.name if largest else "the optimizer"
        ranks = facts.run.ranks
        summary, code = (
            (f"Share the states among the {counted(ranks, 'process', 'processes')}.", _SHARE.format(name=name))
            if ranks > 1 and largest
            else ("Where memory is short, try an optimizer with smaller states, and compare the loss.", _SMALLER)
        )
        return self.finding(
            title=(
                f"the states of {name} take {size(states)}, {percent(states / held)} of what a step holds "
                f"and {percent(states / memory.capacity_bytes)} of {memory.where}"
            ),
            why=(
                f"{name[:1].upper() + name[1:]} keeps {size(states)} between steps, beside "
                f"{size(categories.get('parameters', 0))} of parameters; activations take "
                f"{size(categories['activations'])}. At its peak {memory.where} was {percent(memory.share)} full."
            ),
            evidence={
                "optimizer_bytes": float(states),
                "optimizer_share": states / held,
                "capacity_bytes": float(memory.capacity_bytes),
                "used_share": memory.share,
            },
            fix=Fix.at(largest.site if largest else None, summary, code),
            severity=Severity.WARNING if memory.on_device and memory.share >= self.near.value else Severity.INFO,
        )

    def _of_snapshot(self, device: DeviceMemory, facts: Facts) -> Finding | None:
        states = device.categories_bytes.get("optimizer", 0)
        if device.ooms or states < self.threshold.value * device.held_bytes or not states:
            return None  # out of memory, the failure's own rule says it
        return self.finding(
            title=(
                f"optimizer states take {size(states)}, {percent(states / device.held_bytes)} of what was held at "
                f"the peak{on(device, facts)}"
            ),
            why=f"Held were {held_in_words(device)}.",
            evidence={
                "optimizer_bytes": float(states),
                "optimizer_share": states / device.held_bytes,
                "held_bytes": float(device.held_bytes),
            },
            fix=Fix("Where memory is short, try an optimizer with smaller states, and compare the loss.", _SMALLER),
            severity=Severity.INFO,
        )


_SHARE = """\
from torch.distributed.optim import ZeroRedundancyOptimizer

optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class={name}, lr=lr)"""
_SMALLER = "optimizer = torch.optim.Adafactor(model.parameters(), lr=lr)  # another update rule: tune lr again"
