"""host/launch-bound."""

from __future__ import annotations

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import THINNED, DeviceRule, PerStep
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, number, percent

SAVED = (0.75, 1.0)  # of the idle time: what graphs and larger batches leave; 0.99 was seen on an H200


class LaunchBound(DeviceRule):
    """The device waits for the host to launch its next kernel.

    ## Why it is slow
    Each operator costs the host some microseconds of Python and launching. Where the kernels are shorter than
    that, the device has finished one before the next one arrives, and no faster device would help.

    ## Evidence
    The device's own clock was read, and for at least `idle` of the step it was idle with nothing launched, the
    host being neither blocked nor waiting for data. It abstains where the recording was thinned.

    ## Fix
    Fewer and larger launches: `torch.compile(mode="reduce-overhead")` (CUDA graphs), a larger batch, fused and
    foreach operators, less Python between them.

    ## Gain
    75 % to 100 % of that idle time: a graph replays its launches, and what remains is copies and the loop's own
    Python. A small GPT on an H200 lost 99 % of it to graphs of its forward and backward. Narrowed to a range that
    can be wrong; measure it.

    ## Reference
    PyTorch, "Accelerating PyTorch with CUDA Graphs"; torch.compile, "mode".
    """

    id = "host/launch-bound"
    arguments = {
        "transformers": 'TrainingArguments(torch_compile=True, torch_compile_mode="reduce-overhead")',
    }
    evidence = "training"
    bottleneck = Bottleneck.HOST_OVERHEAD
    explained_by = (
        "host/python-line",
        "host/logging",
        "host/progress-bar",
        "optimizer/many-launches",
        "compute/changing-shapes",
        "sync/print-tensor",
        "sync/empty-cache",
        "memory/driver-allocations",
        "transfer/pageable-memory",
    )
    idle = Threshold(0.10, "share of the step in which the device waits for a launch")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge whether the device starves for launches."""
        if step.idle_ms is None:
            return self.abstain(THINNED)
        starved = step.idle_by("host")
        if starved < self.idle.value * step.step_ms or not worth(facts, SAVED[0] * starved):
            return None
        kernels = device.kernel_count / step.steps
        if kernels < 1:
            return self.abstain("no kernel was recorded")
        mean_us = 1000 * device.kernel_sum_ms / max(1, device.kernel_count)
        host_us = 1000 * step.step_ms / kernels
        compiled = any(root.compiled for root in facts.settings.roots)
        root = max(facts.settings.roots, key=lambda root: root.parameters, default=None)
        return self.finding(
            title=(
                f"the device waits for launches {percent(starved / step.step_ms)} of each {ms(step.step_ms)} step: "
                f"{number(kernels)} kernels of {mean_us:.0f} µs"
            ),
            why=(
                f"The device works for {ms(step.busy_ms)} of the step and has nothing to do for {ms(starved)}, since "
                f"nothing was launched. The host takes {host_us:.0f} µs for each kernel, which runs for "
                f"{mean_us:.0f} µs."
            ),
            evidence={
                "starved_ms": starved,
                "starved_share": starved / step.step_ms,
                "busy_ms": step.busy_ms,
                "kernels_per_step": kernels,
                "kernel_us": mean_us,
                "step_ms": step.step_ms,
                **({"launch_delay_us": device.launch_delay_us} if device.launch_delay_us is not None else {}),
            },
            fix=Fix.at(
                root.site if root else None,
                "Launch less often: CUDA graphs, a larger batch, or fused operators."
                if compiled
                else "Let torch.compile capture the step as CUDA graphs, or make the batch larger.",
                'model = torch.compile(model, mode="reduce-overhead")  # graphs; shapes must stay the same',
            ),
            gain=Gain.of(step.step_ms, SAVED[0] * starved, SAVED[1] * starved),
            step_ms=step.step_ms,
        )
