"""compute/batch-too-small."""

from __future__ import annotations

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.device import PerStep, per_step
from profiler.rules.evidence import arithmetic_share, step_ms
from profiler.rules.operators import calls, on_cpu, why_not_seen
from profiler.rules.phrases import about, ms, percent

ALL = (
    r"^aten::(?!view|_unsafe_view|reshape|t$|transpose|permute|expand|slice|select|unsqueeze|squeeze|as_strided|detach)"
)
CALL_US = 2.5  # an operator on the CPU with next to nothing to do (torch 2.13, one core)
STAGES = ("forward", "backward")


class BatchTooSmall(Rule):
    """Operators have so little to do that calling them is the larger part.

    ## Why it is slow
    Calling an operator costs some microseconds whatever it is given. With few items in a batch that is most of
    the step, and twice as many items would take hardly longer.

    ## Evidence
    On the CPU: the operators of forward and backward, by their calls in the deep window and 2.5 µs for each, account
    for at least `calling` of the step. On an accelerator: kernels are shorter than `kernel_us` on the mean, the device
    is idle for launches for at least `calling` of the step, and its memory is not half full. It is a note: whether a
    larger batch suits the training is not in the record.

    ## Fix
    A larger batch; the learning rate may have to follow.

    ## Gain
    None for the step, which gets longer. For the item: a batch twice as large saves up to half of the calls'
    time on each.

    ## Reference
    Goyal et al., "Accurate, Large Minibatch SGD", 2017, on the learning rate.
    """

    id = "compute/batch-too-small"
    bottleneck = Bottleneck.COMPUTE
    needs_device_times = False
    calling = Threshold(0.35, "share of the step that is the cost of calling")
    kernel_us = Threshold(15, "mean microseconds of a kernel below which the device has little to do")

    def check(self, facts: Facts) -> Outcome:
        """Judge how much an operator has to do."""
        if on_cpu(facts):
            return self._on_cpu(facts)
        if facts.device is None:
            return self.abstain(why_not_seen(facts)) if facts.machine.asynchronous else None
        step = per_step(facts)
        return self.abstain(step) if isinstance(step, str) else self._on_device(facts, facts.device, step)

    def _on_cpu(self, facts: Facts) -> Outcome:
        if not facts.operators:
            return self.abstain(why_not_seen(facts)) if "forward" in facts.stages else None
        whole, count = step_ms(facts), calls(facts, ALL, STAGES)
        spent = min(count * CALL_US / 1000, sum(facts.stage_ms(name) for name in STAGES))
        if whole <= 0 or spent < self.calling.value * whole or arithmetic_share(facts) < self.calling.value:
            return None
        return self._finding(facts, whole, spent, f"{about(count)} operators", {"operators": count})

    def _on_device(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        idle, kernels = step.idle_by("host"), device.kernel_count
        if not kernels or step.idle_ms is None or idle < self.calling.value * step.step_ms:
            return None
        mean_us = 1000 * device.kernel_sum_ms / kernels
        memory = facts.memory
        held, capacity = memory.peak_device_bytes, memory.device_capacity_bytes
        if mean_us > self.kernel_us.value or (held and capacity and held > capacity / 2):
            return None
        count = kernels / step.steps
        return self._finding(
            facts, step.step_ms, idle, f"{about(count)} kernels of {mean_us:.0f} µs", {"kernel_us": mean_us}
        )

    def _finding(self, facts: Facts, whole: float, spent: float, what: str, evidence: dict[str, float]) -> Outcome:
        loader = facts.settings.training_loader
        size = loader.batch_size if loader else None
        code = f"DataLoader(dataset, batch_size={2 * size}, ...)  # was {size}" if size else "batch_size *= 2"
        return self.finding(
            title=f"calling {what} is about {percent(spent / whole)} of each {ms(whole)} step",
            why=(
                f"{ms(spent)} of the step do not depend on the batch's size. With twice as many items each would take "
                f"up to {ms(spent / 2)} less."
            ),
            evidence={"calling_ms": spent, "calling_share": spent / whole, "step_ms": whole, **evidence},
            fix=Fix.at(
                loader.site if loader else None, "Try a batch twice as large, and compare items a second.", code
            ),
            severity=Severity.INFO,
        )
