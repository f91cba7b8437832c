"""compute/tf32-off and tensor-core-sizes: what keeps matrix products off the matrix units."""

from __future__ import annotations

import re
from typing import Any

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts, RootSettings
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Severity, Threshold, severity_of
from profiler.rules.device import DeviceRule, PerStep, generation, has_tf32
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, number, percent

TF32_LEFT = (0.15, 0.45)  # of a float32 product's time; peaks differ by 7 to 8 times, 0.19 was seen on an H200
ODD_LEFT = (0.7, 0.9)  # of a product's time whose sizes 8 does not divide
UNALIGNED = r"_align[12]\b|f16.*_align4\b"  # kernels that fetch less than 16 bytes at a time
UNALIGNED_LEFT = {"hopper or newer": (0.12, 0.4)}  # of such a kernel's time; 0.16 was seen on an H200
UNALIGNED_ELSE = (0.35, 0.7)
HALF = ("float16", "bfloat16")


class Tf32Off(DeviceRule):
    """Matrix products run in full float32 though the device could take TF32.

    ## Why it is slow
    From NVIDIA's Ampere on, matrix units multiply float32 numbers with the mantissa cut to 10 bits, about eight times
    as fast as the units for full float32. torch leaves it off for matrix products unless asked.

    ## Evidence
    The device has TF32; by its own clock no matrix product ran on tensor cores and they take at least `threshold` of
    the step; where settings were recorded, the precision of float32 products stands at "highest" and parameters
    are float32. It abstains where kernels' names don't tell.

    ## Fix
    `torch.set_float32_matmul_precision("high")`, and compare the loss.

    ## Gain
    0.15 to 0.45 of the products' time remain: the peaks' ratio is 0.13 (A100: 19.5 to 156 TFLOP/s), a GPT on an H200
    came to 0.19. As far as the device sets the pace. Since numbers change, it is never called critical.

    ## Reference
    torch.set_float32_matmul_precision; NVIDIA A100 data sheet.
    """

    id = "compute/tf32-off"
    evidence = "training"
    arguments = {
        "transformers": "TrainingArguments(tf32=True)",
    }
    bottleneck = Bottleneck.COMPUTE
    threshold = Threshold(0.1, "share of the step in matrix products")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge products in full float32."""
        if not has_tf32(facts):
            return None
        values = facts.settings.values
        if values.get("matmul_precision") not in (None, "highest") or values.get("tf32_matmul") is True:
            return None
        if any(set(root.dtypes) & set(HALF) for root in facts.settings.roots) or _autocast(facts):
            return None
        products = [it for it in device.kernels if it.family == "gemm"]
        if not products:
            return None
        if any(it.tensor_cores for it in products):
            return None
        if all(it.tensor_cores is None for it in products):
            return self.abstain("the kernels' names do not tell whether they ran on tensor cores")
        took = step.running("gemm")
        saves_low, saves_high = (step.shortens((1 - left) * took) for left in TF32_LEFT[::-1])
        if took < self.threshold.value * step.step_ms or not worth(facts, saves_high):
            return None
        gain = Gain.of(step.step_ms, saves_low, saves_high)
        share = 1 - (gain.step_ms_low + gain.step_ms_high) / 2 / step.step_ms
        return self.finding(
            title=(
                f"matrix products in full float32 take {percent(took / step.step_ms)} of each {ms(step.step_ms)} step"
            ),
            why=(
                f"No product ran on tensor cores, and products take {ms(took)} of the device's {ms(step.busy_ms)}. "
                f"TF32 keeps the range of float32 and cuts the mantissa to 10 bits."
            ),
            evidence={"products_ms": took, "products_share": took / step.step_ms, "step_ms": step.step_ms},
            fix=Fix.at(
                facts.settings.sites.get("matmul_precision"),
                "Allow TF32 for matrix products, and compare the loss.",
                'torch.set_float32_matmul_precision("high")  # before the first product',
            ),
            gain=gain,
            step_ms=step.step_ms,
            severity=Severity.WARNING if share >= 0.2 else severity_of(share),
        )


class TensorCoreSizes(DeviceRule):
    """Matrices have sizes that 8 does not divide.

    ## Why it is slow
    Matrix units work on tiles; 16-bit numbers are fetched eight at a time. A vocabulary of 50257 is fetched slowly
    and leaves tiles half empty, while 50304 takes less time though it is more work.

    ## Evidence
    Products are computed in 16 bits or TF32; matrices of linear layers with an odd size hold at least `odd` of
    all; and products take at least `threshold` of the step by the device's clock. Where kernels' names say that they
    fetch fewer than eight numbers at a time (`align1`), theirs is the time that counts. Else it is a note: which
    product took the time is not told apart.

    ## Fix
    Pad vocabulary, classes and widths to a multiple of 64.

    ## Gain
    Of kernels that say so 0.12 to 0.4 of the time remain on Hopper (a GPT's head of 50257 came to 0.16 on an H200),
    0.35 to 0.7 before it, an assumption. Else 0.7 to 0.9 of those matrices' part of the products' time. As far as the
    device sets the pace.

    ## Reference
    NVIDIA, "Matrix Multiplication Background User's Guide", tensor core requirements.
    """

    id = "compute/tensor-core-sizes"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    threshold = Threshold(0.15, "share of the step in matrix products")
    odd = Threshold(0.05, "share of the matrices' parameters from which their sizes matter")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge the sizes of linear layers."""
        root = max(facts.settings.roots, key=lambda root: root.parameters, default=None)
        if root is None or generation(facts) is None or not _on_matrix_units(facts, root):
            return None
        matrices = _count(root, "matrix_parameters")
        if matrices is None:
            return self.abstain("the model's layers were not read")
        part = (_count(root, "odd_parameters") or 0) / matrices if matrices else 0.0
        took = step.running("gemm")
        if part < self.odd.value or took < self.threshold.value * step.step_ms:
            return None
        unaligned = sum(it.ms for it in device.kernels if it.family == "gemm" and re.search(UNALIGNED, it.name))
        slow, lefts = part * took, ODD_LEFT
        if unaligned > 0:
            slow, lefts = unaligned / step.steps, UNALIGNED_LEFT.get(generation(facts) or "", UNALIGNED_ELSE)
        saves_low, saves_high = (step.shortens((1 - left) * slow) for left in lefts[::-1])
        gain = Gain.of(step.step_ms, saves_low, saves_high)
        told = (
            f" Kernels that fetch fewer than eight numbers at a time run for {ms(slow)} of that."
            if unaligned > 0
            else ""
        )
        named = root.extra.get("odd_matrices")
        first: Any = named[0] if isinstance(named, list) and named else {}
        shape = " x ".join(str(size) for size in first.get("shape", ()))
        return self.finding(
            title=f"{percent(part)} of {root.name}'s matrices have a size that 8 does not divide: {shape}",
            why=(
                f"Products take {ms(took)} of each {ms(step.step_ms)} step. {first.get('name', 'One')} is {shape}; "
                f"{number(_count(root, 'odd_parameters') or 0)} of {number(matrices)} parameters lie in such matrices."
                f"{told}"
            ),
            evidence={"odd_share": part, "products_ms": took, "step_ms": step.step_ms},
            fix=Fix.at(
                root.site,
                "Pad the sizes to a multiple of 64.",
                "vocabulary = 64 * math.ceil(vocabulary / 64)  # 50257 becomes 50304; the rest is never a target",
            ),
            gain=gain,
            step_ms=step.step_ms,
            severity=severity_of(saves_low / step.step_ms) if unaligned > 0 else Severity.INFO,
        )


def _on_matrix_units(facts: Facts, root: RootSettings) -> bool:
    tf32 = has_tf32(facts) and facts.settings.values.get("matmul_precision") in ("high", "medium")
    return tf32 or _autocast(facts) or bool(set(root.dtypes) & set(HALF))


def _autocast(facts: Facts) -> bool:
    autocast: Any = facts.settings.values.get("autocast")
    return isinstance(autocast, dict) and bool(autocast.get("enabled"))


def _count(root: RootSettings, name: str) -> int | None:
    value = root.extra.get(name)
    return value if isinstance(value, int) else None
