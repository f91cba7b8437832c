"""memory/growth."""

from __future__ import annotations

from profiler.analysis.facts import Facts, MemorySample
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.phrases import about, number, size

_KEEP_EVENTS = frozenset({"torch.profiler", "tracemalloc"})  # instruments whose own memory grows with the steps


class Growth(Rule):
    """Memory grows with every step and will run out.

    ## Why it is slow
    A tensor that is kept from each step (a loss that still carries its graph, outputs in a list, a cache
    without a bound) is never freed. The run slows down as memory gets scarce, and ends when it is gone.

    ## Evidence
    Memory rose by at least `growth_mib` over at least `steps` measured steps, beyond noise, and still rose
    in the last third of the run: what levels off (less than `late_share` of the growth falls there) is a
    cache that filled up, and makes it abstain, as does a profiler that was left on and keeps every event. It gives
    way to `memory/kept-graph` and `memory/python-objects`, which know what is kept. Device memory counts where it
    grew, else the process's. It is critical where capacity ends before as many steps again as were seen, or before
    `soon_steps`; a warning otherwise.

    ## Fix
    Keep numbers instead of tensors: `.item()` or `.detach()` on what outlives the step, and a bound on what
    is stored.

    ## Gain
    In bytes: the growth per step, times the steps that are left. Steps themselves may not get shorter.

    ## Reference
    PyTorch FAQ, "My model reports out of memory": don't accumulate history across your training loop.
    """

    id = "memory/growth"
    evidence = "training"
    explained_by = ("memory/kept-graph", "memory/python-objects")
    bottleneck = Bottleneck.MEMORY
    per_step = True
    needs_device_times = False
    growth_mib = Threshold(16, "growth below which nothing is said, in MiB")
    steps = Threshold(40, "measured steps that the growth must span")
    soon_steps = Threshold(1000, "steps to exhaustion below which it is critical")
    late_share = Threshold(0.15, "share of the growth that must fall into the last third of the run")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether memory grows, and when it ends."""
        memory, steps = facts.memory, facts.steps
        if memory.growth_bytes_per_step is None or memory.growth_bytes is None or steps is None:
            reason = facts.not_measured.get("memory growth") or facts.not_measured.get("memory")
            return self.abstain(reason) if reason else None
        if memory.growth_bytes < self.growth_mib.value * 2**20 or memory.growth_bytes_per_step <= 0:
            return None
        over = memory.growth_steps if memory.growth_steps is not None else steps.measured
        if over < self.steps.value:
            return self.abstain(f"memory grew, but {over} steps are too few to tell growth from filling caches")
        on_device = memory.growth_on_device
        watching = facts.settings.values.get("instruments")
        keeping = _KEEP_EVENTS.intersection(watching) if isinstance(watching, list) else None
        if keeping and not on_device:
            return self.abstain(f"{' and '.join(sorted(keeping))} watched every step, and keeps what it saw")
        late = _late_share(memory.timeline, on_device)
        if late is not None and late < self.late_share.value:
            return self.abstain("memory grew at first and then levelled off, as caches do that fill up")
        where, used, capacity = ("the device's memory", memory.peak_device_bytes, memory.device_capacity_bytes)
        if not on_device:
            where, used, capacity = (
                "the process",
                memory.peak_rss_bytes,
                facts.machine.memory_bytes or None,
            )
        per_step = memory.growth_bytes_per_step
        left = max(0.0, capacity - used) / per_step if capacity and used is not None else None
        ends = (
            f" At this rate the {size(capacity)} are used up in {about(left)} more steps."
            if left is not None and capacity
            else ""
        )
        soon = left is not None and left <= max(self.soon_steps.value, steps.count)
        evidence = {"growth_bytes_per_step": per_step, "growth_bytes": float(memory.growth_bytes)}
        if left is not None:
            evidence["steps_left"] = left
        return self.finding(
            title=(
                f"{where} grows by {size(per_step)} a step, which makes {size(per_step * 1000)} in 1,000 "
                "steps" + (f", and memory is full in {about(left)} steps" if soon and left is not None else "")
            ),
            why=(
                f"Over {number(over)} steps {where} grew by {size(memory.growth_bytes)}, and "
                f"it was still growing at the end.{ends} Something of each step is kept: most often a loss "
                "with its graph, or outputs in a list."
            ),
            evidence=evidence,
            fix=Fix("Keep numbers, not tensors, of what outlives the step.", _CODE),
            severity=Severity.CRITICAL if soon else Severity.WARNING,
        )


_MOST_OF_RUN = 0.8
_CODE = """\
losses.append(loss.item())        # not: losses.append(loss)
total += loss.detach()            # not: total += loss
history.append(output.detach().cpu())  # and only the last few: collections.deque(maxlen=100)"""


def _late_share(timeline: tuple[MemorySample, ...], on_device: bool) -> float | None:
    """Share of all growth that fell into the last third; None with too few samples to tell."""
    read = [sample.device_bytes if on_device else sample.rss_bytes for sample in timeline]
    sizes = [float(size) for size in read if size is not None]
    last = sizes.index(max(sizes)) + 1 if sizes else 0
    if on_device and last >= _MOST_OF_RUN * len(sizes) and all(size < sizes[last - 1] / 2 for size in sizes[last:]):
        sizes = sizes[:last]  # the rest was read when the script had let go of it
    if len(sizes) < 9:
        return None
    third = len(sizes) // 3
    start, middle, end = (
        sum(part) / len(part) for part in (sizes[: third // 2 + 1], sizes[-third - 1 : -third + 1], sizes[-2:])
    )
    return (end - middle) / (end - start) if end > start else 0.0
