"""sync/print-tensor and empty-cache: lines that make the host and the device wait for each other."""

from __future__ import annotations

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts, LineTime
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import THINNED, DeviceRule, PerStep, sampled
from profiler.rules.evidence import worth
from profiler.rules.lines import error_of
from profiler.rules.phrases import ms, percent, place

LOST_LEAD = 1.25  # what a wait costs with the lead that the host loses by it
PRINTED = r"^torch\._tensor_str\b"  # what runs while a tensor becomes text


class _LineRule(DeviceRule):
    """Base of rules that judge one sampled line; no rule itself."""

    threshold: Threshold
    does: str
    summary: str
    code: str

    def line(self, facts: Facts) -> LineTime | None:
        """The line, if the sampler saw it."""
        raise NotImplementedError

    def why(self, line: LineTime, step: PerStep) -> str:
        """The mechanism, in this run's numbers."""
        raise NotImplementedError

    def besides(self, device: DeviceFacts) -> float:
        """Milliseconds a step that the line causes elsewhere."""
        return 0.0

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge the line by the time that it takes while the device is idle."""
        line = self.line(facts)
        if line is None or line.ms_per_step < self.threshold.value * step.step_ms:
            return None
        if step.idle_ms is None:
            return self.abstain(THINNED)
        gain = gain_of_line(facts, step, line, self.besides(device))
        if gain is None:
            return None
        return self.finding(
            title=(
                f"{place(line.site, facts)} {self.does} for {percent(line.ms_per_step / step.step_ms)} of each "
                f"{ms(step.step_ms)} step"
            ),
            why=self.why(line, step),
            evidence={"line_ms": line.ms_per_step, "samples": float(line.samples), "step_ms": step.step_ms},
            fix=Fix.at(line.site, self.summary, self.code),
            gain=gain,
            step_ms=step.step_ms,
        )


class PrintTensor(_LineRule):
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
    evidence = "training"
    bottleneck = Bottleneck.SYNCHRONIZATION
    threshold = Threshold(0.05, "share of the step spent printing tensors")

    summary = "Print every 50th step."
    code = "if step % 50 == 0:\n    print(loss.item())"
    does = "prints a tensor of the device"

    def line(self, facts: Facts) -> LineTime | None:
        """Where torch turns a tensor into text."""
        return sampled(facts, r"(?!)", leaf=PRINTED)

    def why(self, line: LineTime, step: PerStep) -> str:
        """What printing waits for."""
        idle_ms = sum((step.idle_ms or {}).values())
        return (
            f"The training thread was turning a tensor into text for {ms(line.ms_per_step)} a step. Each look at its "
            f"values waits for the device, which is idle for {ms(idle_ms)} of the step."
        )


class EmptyCache(_LineRule):
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
    The line's time, give or take the sampling error, with the time in which recorded steps take memory from the driver;
    a quarter more for the lead that the host loses; and at most the time in which the device was idle.

    ## Reference
    torch.cuda.empty_cache; CUDA semantics, "Memory management".
    """

    id = "sync/empty-cache"
    evidence = "training"
    bottleneck = Bottleneck.SYNCHRONIZATION
    threshold = Threshold(0.05, "share of the step spent in empty_cache")

    summary = "Remove the call."
    code = "# delete: torch.cuda.empty_cache()"
    does = "empties the allocator's cache"

    def besides(self, device: DeviceFacts) -> float:
        """What was given back is asked for again."""
        return device.driver_memory_ms or 0.0

    def line(self, facts: Facts) -> LineTime | None:
        """The call."""
        return sampled(facts, r"\bempty_cache\(")

    def why(self, line: LineTime, step: PerStep) -> str:
        """What emptying costs."""
        return (
            f"Giving memory back to the driver takes {ms(line.ms_per_step)} a step and waits for the device; the next "
            "step asks for the same memory again."
        )


def gain_of_line(facts: Facts, step: PerStep, line: LineTime, besides_ms: float = 0.0) -> Gain | None:
    """What a sampled line's end would save: not more than the device is idle; None where that is a trifle."""
    error = error_of(line)
    idle_ms = sum((step.idle_ms or {}).values())
    saves = min(line.ms_per_step + besides_ms, idle_ms)
    if not worth(facts, saves):
        return None
    return Gain.of(step.step_ms, saves * (1 - error), min(saves * LOST_LEAD, idle_ms) if besides_ms else saves)
