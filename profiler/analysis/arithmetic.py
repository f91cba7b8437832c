"""What the model's arithmetic comes to, and how much of the machine's peak that is.

In:  the operations counted in the deep window, the mean step, the settings, and the peak that run.json holds.
Out: `Arithmetic`; or why it is not known.

Utilisation is that of Chowdhery et al., "PaLM" (2022), appendix B: operations ÷ step ÷ peak. The operations are those
that ran, so that activation checkpointing's second forward counts too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from profiler.analysis.facts import Arithmetic, Settings

_BEYOND_PEAK = 1.0


def arithmetic_of(
    note: Mapping[str, Any] | None, step_ms: float | None, settings: Settings, peak: Mapping[str, Any] | None
) -> Arithmetic | str:
    """The arithmetic of a step; or a clause that says why it is not known."""
    if note is None or step_ms is None or step_ms <= 0:
        return "no step was looked at operator by operator"
    if "compile" in settings.values or any(root.compiled for root in settings.roots):
        return "compiled code calls kernels whose operations can't be counted"
    flops, steps = note.get("flops"), note.get("steps")
    if not isinstance(flops, int) or not isinstance(steps, int) or steps < 1 or flops <= 0:
        return "no matrix product, convolution or fused attention was seen"
    per_step = flops / steps
    tflops = per_step / (step_ms / 1e3) / 1e12
    number_format = number_format_of(settings)
    given = peak.get("tflops") if peak else None
    top = float(given) if isinstance(given, (int, float)) and given > 0 else None
    source = str(peak.get("source")) if peak and top is not None else None
    share = tflops / top if top is not None else None
    return Arithmetic(
        flops_per_step=per_step,
        tflops=tflops,
        number_format=number_format,
        peak_tflops=top,
        peak_source=source,
        mfu=share if share is not None and share <= _BEYOND_PEAK else None,  # beyond it the peak is none
    )


def number_format_of(settings: Settings) -> str:
    """The format in which most products are computed, as far as settings tell: "float32", "tf32", "bfloat16", …"""
    autocast = settings.values.get("autocast")
    if isinstance(autocast, dict) and autocast.get("enabled") and autocast.get("dtype"):
        return str(autocast["dtype"]).removeprefix("torch.")
    models = [root for root in settings.roots if not root.is_loss]
    largest = max(models, key=lambda root: root.parameters, default=None)
    dtype = largest.dtypes[0] if largest is not None and largest.dtypes else "float32"
    if dtype != "float32":
        return dtype
    fast = settings.values.get("matmul_precision") in ("high", "medium") or settings.values.get("tf32_matmul") is True
    return "tf32" if fast and any("cuda" in str(root.extra.get("devices")) for root in models) else "float32"
