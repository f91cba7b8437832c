"""memory/driver-allocations."""

from __future__ import annotations

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import THINNED, DeviceRule, PerStep
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent


class DriverAllocations(DeviceRule):
    """Memory is taken from the driver in the midst of the training.

    ## Why it is slow
    torch's allocator keeps what was freed and hands it out again, so that after the first steps the driver need not be
    asked. Where it is (sizes that were never seen, a cache that was emptied or given back for want of memory), each
    call takes the host a tenth of a millisecond.

    ## Evidence
    In the recorded steps of a live run, which lie well after the first, the host was in the driver's calls that take
    memory for at least `threshold` of the step, and the device was idle for as long.

    ## Fix
    Segments that can grow (`expandable_segments`), batches of few sizes, and no `empty_cache()` in the loop.

    ## Gain
    50 % to 100 % of that time, as far as the device is idle.

    ## Reference
    PyTorch documentation, "CUDA semantics: Optimizing memory usage with PYTORCH_CUDA_ALLOC_CONF".
    """

    id = "memory/driver-allocations"
    bottleneck = Bottleneck.MEMORY
    explained_by = ("sync/empty-cache",)
    threshold = Threshold(0.05, "share of the step in the driver's calls for memory")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge the time in the driver's calls."""
        took = device.driver_memory_ms or 0.0
        if facts.trace is not None or took < self.threshold.value * step.step_ms:  # a trace may hold the first steps
            return None
        if step.idle_ms is None:
            return self.abstain(THINNED)
        saves = min(took, sum(step.idle_ms.values()))
        if saves < self.threshold.value * step.step_ms or not worth(facts, saves):
            return None
        return self.finding(
            title=f"the driver is asked for memory for {percent(saves / step.step_ms)} of each {ms(step.step_ms)} step",
            why=(
                f"Calls that take memory from the driver hold the host for {ms(took)} a recorded step, "
                "long after the first steps, in which that is usual."
            ),
            evidence={"driver_ms": took, "step_ms": step.step_ms},
            fix=Fix(
                "Let segments grow, and keep batches to a few sizes.",
                "# before the first tensor on the device; PYTORCH_ALLOC_CONF from torch 2.9 on\n"
                'os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"',
            ),
            gain=Gain.of(step.step_ms, 0.5 * saves, saves),
            step_ms=step.step_ms,
        )
