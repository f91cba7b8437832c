"""optimizer/many-launches."""

from __future__ import annotations

import re

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import DeviceRule, PerStep
from profiler.rules.evidence import worth
from profiler.rules.late import late_in
from profiler.rules.phrases import ms, number, percent

SAVED = (0.7, 1.0)  # of the idle time: what one update for all tensors leaves; 0.92 was seen on an H200
_TOGETHER = re.compile(r"multi_tensor|foreach|fused", re.IGNORECASE)  # kernels that update many tensors at once
_STEP = "optimizer"


class ManyLaunches(DeviceRule):
    """The optimizer launches its kernels tensor by tensor, and the device waits for them.

    ## Why it is slow
    A for-loop over the parameters launches several kernels of a few microseconds for each tensor, and the host needs
    longer to launch one than the device to run it.

    ## Evidence
    The device's own clock was read. At least `launches` kernels a step of less than `kernel_us` on the mean were
    launched in the update, most of them no foreach or fused ones; and so much of the time in which the device waits
    for launches lies in the update, for at least `idle` of the step, that it can't lie elsewhere.

    ## Fix
    `foreach=True` or `fused=True`: all tensors in a few launches. torch.optim takes foreach by itself for tensors
    on CUDA, so that `foreach=False` was given or the optimizer is one of its own.

    ## Gain
    70 % to 100 % of that idle time; AdamW of a 12-layer GPT on an H200 lost 92 % of it to the fused one.

    ## Reference
    torch.optim, "Algorithms: for-loop, foreach (multi-tensor) and fused".
    """

    id = "optimizer/many-launches"
    evidence = "training"
    bottleneck = Bottleneck.OPTIMIZER
    idle = Threshold(0.05, "share of the step in which the device waits for launches of the update")
    launches = Threshold(100, "kernels of the update in a step, below which it is no loop")
    kernel_us = Threshold(20, "mean microseconds of such a kernel, above which launching is not what takes the time")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge whether the update starves the device."""
        late = late_in(facts, step)
        if late is None or late.stage != _STEP or late.least_ms < self.idle.value * step.step_ms:
            return None
        kernels = [kernel for kernel in device.kernels if kernel.stage == _STEP]
        one_by_one = [kernel for kernel in kernels if not _TOGETHER.search(kernel.name)]
        count = sum(kernel.count for kernel in one_by_one)
        if count < self.launches.value * step.steps or 2 * count < sum(kernel.count for kernel in kernels):
            return None
        mean_us = 1000 * sum(kernel.ms for kernel in one_by_one) / count
        if mean_us >= self.kernel_us.value or not worth(facts, SAVED[0] * late.least_ms):
            return None
        stage = facts.stages[_STEP]
        name = str(facts.settings.values.get("optimizers") or "").split(",")[0] or "Optimizer"
        return self.finding(
            title=(
                f"{name}.step() launches {number(count / step.steps)} kernels of {mean_us:.0f} µs one by one, and the "
                f"device waits for them {percent(late.least_ms / step.step_ms)} of each {ms(step.step_ms)} step"
            ),
            why=(
                f"The host is in the update for {ms(stage.mean_ms)} of the step. The device stands idle for "
                f"{ms(step.idle_by('host'))} because launches come late, and at least {ms(late.least_ms)} of that lies "
                "in the update."
            ),
            evidence={
                "starved_ms": late.least_ms,
                "kernels_per_step": count / step.steps,
                "kernel_us": mean_us,
                "step_ms": step.step_ms,
            },
            fix=Fix.at(
                stage.call,
                "Let the optimizer update all tensors together.",
                f"{name}(model.parameters(), foreach=True)  # or fused=True; the other arguments stay",
            ),
            gain=Gain.of(step.step_ms, SAVED[0] * late.least_ms, SAVED[1] * late.least_ms),
            step_ms=step.step_ms,
        )
