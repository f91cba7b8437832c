"""compute/batch-too-small."""

from __future__ import annotations

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.device import PerStep, per_step
from profiler.rules.evidence import arithmetic_share, step_ms
from profiler.rules.operators import calls, on_cpu, why_not_seen
from profiler.rules.phrases import about, ms

ALL = (
    r"^aten::(?!view|_unsafe_view|reshape|t$|transpose|permute|expand|slice|select|unsqueeze|squeeze|as_strided|detach)"
)
STAGES = ("forward", "backward")
LEAST_KERNELS = 50  # a step, below which it is no training of a model
ARITHMETIC = 0.5  # share of the step in the model's arithmetic, below which something else is to be said


class BatchTooSmall(Rule):
    """Operators have so little to do that calling them is the larger part.

    ## Why it is slow
    Calling an operator costs some microseconds whatever it is given. With few items in a batch that is most of
    the step, and twice as many items would take hardly longer.

    ## Evidence
    On the CPU: the operators of forward and backward take less than `operator_us` on the mean, by their calls in the
    deep window and the CPU time of steps that were not watched; one with nothing to do takes 2 to 5 µs. On an
    accelerator: kernels are shorter than `kernel_us` on the mean, the device is idle for launches for at least `idle`
    of the step, and its memory is not half full. It is a note: whether a larger batch suits the training is not in the
    record.

    ## Fix
    A larger batch; the learning rate may have to follow.

    ## Gain
    None for the step, which gets longer. Up to half for each item, with a batch twice as large.

    ## Reference
    Goyal et al., "Accurate, Large Minibatch SGD", 2017, on the learning rate.
    """

    id = "compute/batch-too-small"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    needs_device_times = False
    operator_us = Threshold(9, "mean microseconds of an operator on the CPU below which it has little to do")
    idle = Threshold(0.35, "share of the step in which the device waits for launches")
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
        spent = sum(facts.stage_ms(name) for name in STAGES)
        cores = facts.machine.process_cores  # less than one: other programs had the rest, which is no operator's time
        mean_us = 1000 * spent * min(1.0, cores if cores is not None else 1.0) / count if count else 0.0
        if not count or arithmetic_share(facts) < ARITHMETIC or mean_us >= self.operator_us.value:
            return None
        title = f"forward and backward call {about(count)} operators of {mean_us:.1f} µs on the mean"
        return self._finding(facts, whole, spent, title, {"operators": count, "operator_us": mean_us})

    def _on_device(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        idle, kernels = step.idle_by("host"), device.kernel_count
        if kernels < LEAST_KERNELS * step.steps or step.idle_ms is None or idle < self.idle.value * step.step_ms:
            return None
        mean_us = 1000 * device.kernel_sum_ms / kernels
        memory = facts.memory
        held, capacity = memory.peak_device_bytes, memory.device_capacity_bytes
        if mean_us > self.kernel_us.value or (held and capacity and held > capacity / 2):
            return None
        count = kernels / step.steps
        title = (
            f"the device gets {about(count)} kernels of {mean_us:.0f} µs a step, and waits for launches between them"
        )
        return self._finding(facts, step.step_ms, idle, title, {"kernels": count, "kernel_us": mean_us})

    def _finding(self, facts: Facts, whole: float, spent: float, title: str, evidence: dict[str, float]) -> Outcome:
        loader = facts.settings.training_loader
        size = loader.batch_size if loader else None
        code = f"DataLoader(dataset, batch_size={2 * size}, ...)  # was {size}" if size else "batch_size *= 2"
        return self.finding(
            title=title,
            why=(
                f"Most of {ms(spent)} of each {ms(whole)} step is the cost of calling, which does not depend on the "
                f"batch's size: twice as many items would take hardly longer."
            ),
            evidence={"calling_ms": spent, "step_ms": whole, **evidence},
            fix=Fix.at(
                loader.site if loader else None, "Try a batch twice as large, and compare items a second.", code
            ),
            severity=Severity.INFO,
        )
