"""compute/compile-unused and recompiling: torch.compile, where it would help and where it does not stop."""

from __future__ import annotations

import re

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold
from profiler.rules.device import FUSES, PRODUCTS, DeviceRule, PerStep
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import counted, ms, percent, place, seconds

FUSED_LEFT = (0.4, 0.7)  # of such kernels' time, in short chains
IN_A_CHAIN = (1.3, 3.0)  # kernels that are left of a chain between two products: its length divides them
LEAST_LEFT = (0.1, 0.25)
COMPILATIONS = 3  # of one graph at most: as it is first seen, once sizes change, and for evaluation
SPANS_EACH = 2  # forward and backward


class CompileUnused(DeviceRule):
    """Kernels that torch.compile would fuse take much of the step.

    ## Why it is slow
    Element-wise kernels, reductions and normalizations are bound by memory: each reads its input and writes its
    output. Fused into one, a chain of them reads and writes once.

    ## Evidence
    By the device's clock such kernels take at least `threshold` of the step, torch.compile was not called, and no
    kernel carries the compiler's name. It is a note: whether the model compiles is not in the record.

    ## Fix
    `torch.compile(model)` before the training; `TrainingArguments(torch_compile=True)`.

    ## Gain
    0.4 to 0.7 of those kernels' time remain, and less where many of them run between two products: 0.1 to 0.25 from
    a dozen on (0.18 was seen on an H200). Assumptions, as far as the device sets the pace. PyTorch's authors report
    1.2 times the speed in float32 and 1.5 times under autocast as means over 163 models on an A100.

    ## Reference
    PyTorch 2.0 release notes; torch.compile.
    """

    id = "compute/compile-unused"
    evidence = "training"
    arguments = {
        "transformers": "TrainingArguments(torch_compile=True)",
    }
    bottleneck = Bottleneck.COMPUTE
    explained_by = ("host/launch-bound",)
    threshold = Threshold(0.2, "share of the step in kernels that can be fused")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge kernels that were left unfused."""
        if "compile" in facts.settings.values or any(root.compiled for root in facts.settings.roots):
            return None
        if any(re.search(r"\btriton_", it.name) for it in device.kernels):
            return None
        took = step.running(*FUSES)
        saves_low, saves_high = (step.shortens((1 - left) * took) for left in _left(device)[::-1])
        if took < self.threshold.value * step.step_ms or not worth(facts, saves_high):
            return None
        root = max(facts.settings.roots, key=lambda root: root.parameters, default=None)
        return self.finding(
            title=f"kernels that could be fused take {percent(took / step.step_ms)} of each {ms(step.step_ms)} step",
            why=(
                f"Element-wise kernels, reductions and normalizations run for {ms(took)} of the device's "
                f"{ms(step.busy_ms)}, each for itself, and torch.compile was not used."
            ),
            evidence={"fusable_ms": took, "fusable_share": took / step.step_ms, "step_ms": step.step_ms},
            fix=Fix.at(
                root.site if root else None,
                "Compile the model, and compare the steps after the first.",
                "model = torch.compile(model)",
            ),
            gain=Gain.of(step.step_ms, saves_low, saves_high),
            step_ms=step.step_ms,
            severity=Severity.INFO,
        )


def _left(device: DeviceFacts) -> tuple[float, float]:
    """What fusing leaves of the kernels' time, by how many of them run between two products."""
    of_model = [it for it in device.kernels if it.stage != "optimizer"]
    fused, products = (sum(it.count for it in of_model if it.family in names) for names in (FUSES, PRODUCTS))
    chain = fused / max(1, products)
    low, high = (
        min(most, max(least, kept / max(chain, 1e-9)))
        for most, least, kept in zip(FUSED_LEFT, LEAST_LEFT, IN_A_CHAIN, strict=True)
    )
    return low, high


class Recompiling(Rule):
    """The compiler compiles again and again.

    ## Why it is slow
    Compiled code holds for the sizes and Python values that it was compiled for. Where they change it is compiled
    anew while the loop stands still, and after eight times torch gives up and runs the code uncompiled.

    ## Evidence
    More than `again` graphs were compiled beyond three for each (at first, when sizes change, for evaluation), or
    torch's limit was reached. Where the process was killed its own counters are missing, and the compiler's spans
    are counted. Steps in which it compiled are left out of the step's figures, so that its time is told beside
    them, from `threshold` of both together on.

    ## Fix
    Mark what changes as dynamic, pad to few sizes, and keep changing Python numbers out of the model.

    ## Gain
    The time compiled after the first compilations, spread over the steps: 80 % to 100 % of it.

    ## Reference
    torch.compile, "Recompilation" and "Dynamic shapes".
    """

    id = "compute/recompiling"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    needs_device_times = False
    again = Threshold(3, "compilations beyond the expected ones, from which it is told")
    threshold = Threshold(0.05, "share that they add to the steps")

    def check(self, facts: Facts) -> Outcome:
        """Judge how often it compiled."""
        span = next((span for span in facts.spans if span.name == "compile"), None)
        values = facts.settings.values
        if span is None or facts.steps is None:
            return None
        graphs, breaks, limit = (
            values.get(f"compiled_{it}") for it in ("graphs", "graph_breaks", "recompile_limit_hit")
        )
        if isinstance(graphs, int):
            expected = COMPILATIONS * (1 + (breaks if isinstance(breaks, int) else 0))
            found = graphs
        else:
            expected, found = COMPILATIONS * SPANS_EACH * 2, span.count
        if found - expected < self.again.value and limit is not True:
            return None
        lengths = sorted((end - start for start, end in span.intervals_s), reverse=True)
        first_s = sum(lengths[: max(1, round(expected * span.count / found / COMPILATIONS))]) if found else 0.0
        again_ms = max(0.0, span.total_s - first_s) * 1000 / facts.steps.count
        steps_ms = step_ms(facts)
        whole = steps_ms + again_ms
        if again_ms < self.threshold.value * whole or not worth(facts, again_ms):
            return None
        site = facts.settings.sites.get("compile")
        where = f" at {place(site, facts)}" if site else ""
        gave_up = " It reached torch's limit and then ran uncompiled." if limit is True else ""
        return self.finding(
            title=(
                f"torch.compile{where} compiled {counted(found, 'graph')}, which adds {percent(again_ms / whole)} to "
                f"the steps"
            ),
            why=(
                f"The compiler ran {counted(span.count, 'time')} for {seconds(span.total_s)}: beyond the first "
                f"compilation that is {ms(again_ms)} for each of {facts.steps.count:,} steps of {ms(steps_ms)}."
                f"{gave_up}"
            ),
            evidence={
                "graphs": float(found),
                "compile_s": span.total_s,
                "again_ms_per_step": again_ms,
                "step_ms": steps_ms,
            },
            fix=Fix.at(site, "Mark what changes as dynamic, or pad it to few sizes.", _CODE),
            gain=Gain.of(whole, 0.8 * again_ms, again_ms),
            step_ms=whole,
        )


_CODE = """\
# TORCH_LOGS=recompiles python train.py tells each time why
torch._dynamo.mark_dynamic(inputs, 1)  # the dimension whose size changes
model = torch.compile(model, dynamic=True)  # or all of them"""
