"""compute/unfused-attention."""

from __future__ import annotations

import re

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.device import PerStep, per_step, sampled
from profiler.rules.evidence import step_ms, worth
from profiler.rules.operators import calls, on_cpu, operators_ms, why_not_seen
from profiler.rules.phrases import about, ms, percent

FUSED = r"scaled_dot_product|flash|fmha|efficient_attention|cudnn_attention"
SOFTMAX = r"aten::_softmax\b|aten::_softmax_backward|aten::_safe_softmax"
PRODUCTS = r"aten::(bmm|baddbmm)\b"
SCORES = r"aten::(masked_fill_?|tril|triu|where)\b"
LEFT_ON_CPU = (0.15, 0.5)  # of softmax, masks and batched products (measured, see the docstring)
LEFT_ON_DEVICE = (0.3, 0.6)


class UnfusedAttention(Rule):
    """Attention is computed by hand, step by step.

    ## Why it is slow
    Scores, mask, softmax and the weighted sum each write a matrix of length x length for every head, read it again,
    and keep it for backward. `scaled_dot_product_attention` goes over it in tiles that never leave the cache, and
    computes them again in backward.

    ## Evidence
    The deep window (or a trace) saw softmax between batched matrix products, and no fused attention; together with
    masks they take at least `threshold` of the step. It abstains where no step was looked at operator by operator.

    ## Fix
    `torch.nn.functional.scaled_dot_product_attention`; in transformers `attn_implementation="sdpa"`.

    ## Gain
    On the CPU 0.15 to 0.5 of that time remain: measured on 2 cores, torch 2.13, causal attention over 128 and 384
    places within small transformers. (Scaling, copies and memory that is touched anew come on top of the operators
    counted; alone, with everything in the cache, 0.5 to 0.7 remain.) On an accelerator 0.3 to 0.6 are assumed, as
    far as the device sets the pace.

    ## Reference
    torch.nn.functional.scaled_dot_product_attention; Dao et al., "FlashAttention", 2022.
    """

    id = "compute/unfused-attention"
    arguments = {
        "transformers": 'AutoModel.from_pretrained(..., attn_implementation="sdpa")',
    }
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    needs_device_times = False
    threshold = Threshold(0.08, "share of the step in attention's own operators")

    def check(self, facts: Facts) -> Outcome:
        """Judge attention that was written out."""
        if on_cpu(facts):
            return self._on_cpu(facts)
        if facts.device is None:
            return self.abstain(why_not_seen(facts)) if facts.machine.asynchronous else None
        step = per_step(facts)
        return self.abstain(step) if isinstance(step, str) else self._on_device(facts, step)

    def _on_cpu(self, facts: Facts) -> Outcome:
        if not facts.operators:
            return self.abstain(why_not_seen(facts)) if "forward" in facts.stages else None
        softmaxes = calls(facts, r"aten::_softmax\b|aten::_safe_softmax", ("forward",))
        if not softmaxes or not calls(facts, PRODUCTS, ("forward",)) or calls(facts, FUSED):
            return None
        took = operators_ms(facts, f"{SOFTMAX}|{PRODUCTS}|{SCORES}")
        return self._finding(facts, step_ms(facts), took, softmaxes, LEFT_ON_CPU, took)

    def _on_device(self, facts: Facts, step: PerStep) -> Outcome:
        device = facts.device
        if device is None or any(re.search(FUSED, f"{it.name} {it.operator}") for it in device.kernels):
            return None
        softmax = [it for it in device.kernels if re.search(r"softmax", it.operator or it.name, re.IGNORECASE)]
        products = [it for it in device.kernels if re.search(PRODUCTS, it.operator)]
        if not softmax or not products:
            return None
        scores = [it for it in device.kernels if re.search(SCORES, it.operator)]
        took = sum(it.ms for it in (*softmax, *products, *scores)) / step.steps
        forward = sum(it.count for it in softmax if it.stage in ("forward", "")) / step.steps
        return self._finding(facts, step.step_ms, took, forward, LEFT_ON_DEVICE, step.shortens(took))

    def _finding(
        self, facts: Facts, whole: float, took: float, softmaxes: float, left: tuple[float, float], counts: float
    ) -> Outcome:
        saves_low, saves_high = (1 - left[1]) * min(took, counts), (1 - left[0]) * min(took, counts)
        if took < self.threshold.value * whole or not worth(facts, saves_high):
            return None
        root = max(facts.settings.roots, key=lambda root: root.parameters, default=None)
        line = sampled(facts, r"softmax\(")
        return self.finding(
            title=f"attention written out takes {percent(took / whole)} of each {ms(whole)} step",
            why=(
                f"Softmax runs {about(softmaxes)} times a step between batched matrix products, and no fused "
                f"attention does: {ms(took)} for products, masks and softmax, forward and backward. Each writes and "
                f"reads all scores."
            ),
            evidence={"attention_ms": took, "attention_share": took / whole, "softmaxes": softmaxes, "step_ms": whole},
            fix=Fix.at(
                line.site if line else root.site if root else None,
                "Let scaled_dot_product_attention compute it.",
                _CODE,
            ),
            gain=Gain.of(whole, saves_low, saves_high),
            step_ms=whole,
        )


_CODE = """\
# instead of softmax(q @ k.transpose(-2, -1) / sqrt(d) + mask) @ v
out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)"""
