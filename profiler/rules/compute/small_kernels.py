"""compute/small-kernels."""

from __future__ import annotations

import re

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold
from profiler.rules.device import PerStep, per_step
from profiler.rules.evidence import step_ms, worth
from profiler.rules.operators import calls, on_cpu, operators_ms, why_not_seen
from profiler.rules.phrases import about, ms, percent

CHAIN = (
    r"aten::(mul|div|sub|rsub|pow|tanh|exp|sigmoid|erf|neg|sqrt|rsqrt|reciprocal|square|log|log1p|clamp|"
    r"tanh_backward|sigmoid_backward)_?$"
)
ADD = r"aten::add_?$"
WRITTEN_OUT = r"\*\*|\b(pow|tanh|exp|sqrt|rsqrt|sigmoid)\("  # in the user's line
LEFT_ON_CPU = (0.35, 0.7)  # of the chain's time in one fused operator (measured, see the docstring)
LEFT_ON_DEVICE = (0.35, 0.65)


class SmallKernels(Rule):
    """Element-wise operators are called one after another where one would do.

    ## Why it is slow
    `0.5 * x * (1 + tanh(c * (x + 0.044715 * x ** 3)))` is eight operators: each reads a whole tensor, writes a whole
    tensor, allocates it, and most are kept for backward. The arithmetic is nothing; the memory is.

    ## Evidence
    On the CPU: the deep window saw multiplications, powers, tanh and their like, with as much addition, in forward
    and backward, and they take at least `threshold` of the step. On an accelerator: element-wise kernels take that
    share of the step by the device's clock, and the device sets the pace. It abstains where neither was read.

    ## Fix
    The function that does it in one go (`gelu`, `silu`, `layer_norm`, `addcmul`, in place where autograd allows it),
    or `torch.compile`, which fuses such chains by itself.

    ## Gain
    On the CPU 0.35 to 0.7 of that time remain: GELU written out against `gelu`, forward and backward, 2 cores,
    torch 2.13, 0.1 to 1 million numbers. The operators alone gave 0.3 to 0.55, a training of them 0.50 to 0.64, for
    the deep window lengthens them. On an accelerator 0.35 to 0.65 are assumed, and it is a note.

    ## Reference
    PyTorch performance tuning guide, "Fuse operations".
    """

    id = "compute/small-kernels"
    arguments = {"transformers": 'GPT2Config(activation_function="gelu_pytorch_tanh")  # "gelu_new" is written out'}
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    needs_device_times = False
    explained_by = ("compute/compile-unused", "host/launch-bound")
    threshold = Threshold(0.12, "share of the step in element-wise operators")

    def check(self, facts: Facts) -> Outcome:
        """Judge chains of element-wise operators."""
        if on_cpu(facts):
            return self._on_cpu(facts)
        if facts.device is None:
            return self.abstain(why_not_seen(facts)) if facts.machine.asynchronous else None
        step = per_step(facts)
        return self.abstain(step) if isinstance(step, str) else self._on_device(facts, facts.device, step)

    def _on_cpu(self, facts: Facts) -> Outcome:
        if not facts.operators:
            return self.abstain(why_not_seen(facts)) if "forward" in facts.stages else None
        whole = step_ms(facts)
        chain = operators_ms(facts, CHAIN)
        took = chain + min(chain, operators_ms(facts, ADD))
        count = calls(facts, CHAIN) + calls(facts, ADD)
        gain = Gain.of(whole, (1 - LEFT_ON_CPU[1]) * took, (1 - LEFT_ON_CPU[0]) * took)
        return self._finding(facts, whole, took, count, gain, "operators", None)

    def _on_device(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        took = step.running("elementwise")
        count = sum(it.count for it in device.families if it.family == "elementwise") / step.steps
        best, worst = ((1 - left) * took for left in LEFT_ON_DEVICE)
        gain = Gain.of(step.step_ms, step.shortens(worst), step.shortens(best))
        return self._finding(facts, step.step_ms, took, count, gain, "kernels", Severity.INFO)

    def _finding(
        self, facts: Facts, whole: float, took: float, count: float, gain: Gain, word: str, severity: Severity | None
    ) -> Outcome:
        if took < self.threshold.value * whole or not worth(facts, whole - gain.step_ms_low):
            return None
        stage = facts.stages.get("forward")
        lines = [line for line in stage.lines if re.search(WRITTEN_OUT, line.source)] if stage else []
        line = max(lines, key=lambda line: line.ms_per_step, default=None)
        root = max(facts.settings.roots, key=lambda root: root.parameters, default=None)
        return self.finding(
            title=f"{about(count)} element-wise {word} take {percent(took / whole)} of each {ms(whole)} step",
            why=(
                f"Multiplying, adding and the like take {ms(took)} in {about(count)} calls. Each goes through memory "
                f"twice for a little arithmetic; fused, a chain of them goes through it once."
            ),
            evidence={"elementwise_ms": took, "elementwise_share": took / whole, "calls": count, "step_ms": whole},
            fix=Fix.at(
                line.site if line else root.site if root else None,
                "Use the function that does the chain at once, or let torch.compile fuse it.",
                _CODE,
            ),
            gain=gain,
            step_ms=whole,
            severity=severity,
        )


_CODE = """\
x = torch.nn.functional.gelu(x, approximate="tanh")  # instead of 0.5 * x * (1 + torch.tanh(...))
total = torch.addcmul(a, b, c)  # instead of a + b * c
model = torch.compile(model)  # or this, for all chains"""
