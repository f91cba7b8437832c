"""sync/print-tensor and empty-cache: lines that make the host and the device wait for each other."""

from __future__ import annotations

import math

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts, LineTime
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import THINNED, DeviceRule, PerStep, sampled
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent, place

PRINTED = r"^torch\._tensor_str\b"  # what runs while a tensor becomes text


class PrintTensor(DeviceRule):
    """A tensor on the device is printed in the loop.

    ## Why it is slow
    To print a tensor torch looks for its largest and smallest value and copies it to the host, piece by piece: a
    dozen small kernels, each waited for.

    ## Evidence
    The sampler found the training thread where torch turns a tensor into text, for at least `threshold` of the step,
    and the device's clock shows that it was idle for as long. It abstains where the recording was thinned.

    ## Fix
    Print every 50th step, and of a scalar its `.item()`.

    ## Gain
    The line's time, give or take the sampling error, and at most the time in which the device was idle.

    ## Reference
    PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization".
    """

    id = "sync/print-tensor"
    bottleneck = Bottleneck.SYNCHRONIZATION
    threshold = Threshold(0.05, "share of the step spent printing tensors")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge tensors that are printed."""
        line = sampled(facts, r"(?!)", leaf=PRINTED)
        if line is None or line.ms_per_step < self.threshold.value * step.step_ms:
            return None
        if step.idle_ms is None:
            return self.abstain(THINNED)
        gain = gain_of_line(facts, step, line)
        if gain is None:
            return None
        return self.finding(
            title=(
                f"{place(line.site, facts)} prints a tensor of the device for "
                f"{percent(line.ms_per_step / step.step_ms)} of each {ms(step.step_ms)} step"
            ),
            why=(
                f"The training thread was turning a tensor into text for {ms(line.ms_per_step)} a step. Each look at "
                f"its values waits for the device, which is idle for {ms(sum(step.idle_ms.values()))} of the step."
            ),
            evidence={"line_ms": line.ms_per_step, "samples": float(line.samples), "step_ms": step.step_ms},
            fix=Fix.at(line.site, "Print every 50th step.", "if step % 50 == 0:\n    print(loss.item())"),
            gain=gain,
            step_ms=step.step_ms,
        )


class EmptyCache(DeviceRule):
    """The allocator's cache is emptied in the loop.

    ## Why it is slow
    `torch.cuda.empty_cache()` gives memory back to the driver, which waits for the device, and the next step has to
    ask for it again. It makes no memory that torch could not have used itself.

    ## Evidence
    A line that calls `empty_cache` was sampled for at least `threshold` of the step, and the device's clock shows
    that it was idle meanwhile. It abstains where the recording was thinned.

    ## Fix
    Remove it. Against fragmentation there is `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`.

    ## Gain
    The line's time, give or take the sampling error, and at most the time in which the device was idle. What the
    next allocations cost more is not counted.

    ## Reference
    torch.cuda.empty_cache; CUDA semantics, "Memory management".
    """

    id = "sync/empty-cache"
    bottleneck = Bottleneck.SYNCHRONIZATION
    threshold = Threshold(0.05, "share of the step spent in empty_cache")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge a cache that is emptied in the loop."""
        line = sampled(facts, r"\bempty_cache\(")
        if line is None or line.ms_per_step < self.threshold.value * step.step_ms:
            return None
        if step.idle_ms is None:
            return self.abstain(THINNED)
        gain = gain_of_line(facts, step, line)
        if gain is None:
            return None
        return self.finding(
            title=(
                f"{place(line.site, facts)} empties the allocator's cache for "
                f"{percent(line.ms_per_step / step.step_ms)} of each {ms(step.step_ms)} step"
            ),
            why=(
                f"Giving memory back to the driver takes {ms(line.ms_per_step)} a step and waits for the device; the "
                f"next step asks for the same memory again."
            ),
            evidence={"line_ms": line.ms_per_step, "samples": float(line.samples), "step_ms": step.step_ms},
            fix=Fix.at(line.site, "Remove the call.", "# delete: torch.cuda.empty_cache()"),
            gain=gain,
            step_ms=step.step_ms,
        )


def gain_of_line(facts: Facts, step: PerStep, line: LineTime) -> Gain | None:
    """What a sampled line's end would save: not more than the device is idle; None where that is a trifle."""
    error = min(0.3, 1 / math.sqrt(max(1, line.samples)))
    saves = min(line.ms_per_step, sum((step.idle_ms or {}).values()))
    if not worth(facts, saves):
        return None
    return Gain.of(step.step_ms, saves * (1 - error), saves)
