"""How much of a peak is reached: given, measured here, or published.

The order of trust: a measured run (`calibration`), what the user passes, a benchmark of this machine, the range
published for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from profiler.errors import ProfError
from profiler.planner.architecture import Model
from profiler.planner.catalogue import Device
from profiler.planner.timing import Efficiency

HIGHEST_PUBLISHED_MFU = 0.7
SMALL_HIDDEN = 2048  # below it, matrices are too small to reach a device's range


def given_mfu(mfu: float) -> Efficiency:
    """MFU as the user passes it, 0 to 1 (or 1 to 100, read as percent)."""
    share = mfu / 100 if mfu > 1 else mfu
    if not 0 < share <= 1:
        raise ProfError(
            f"--mfu {mfu:g} is absurd: model FLOPs utilisation lies between 0 and 1; published ones 0.2 to 0.6."
        )
    doubt = "; absurdly high: published trainings reach 0.2 to 0.65" if share > HIGHEST_PUBLISHED_MFU else ""
    return Efficiency("mfu", share, share, share, f"--mfu {share:.3g}{doubt}")


def given_tflops(tflops: float, peak_flops: float | None) -> Efficiency:
    """TFLOP/s per device that the training really does, recomputation included, attention not counted."""
    if not tflops > 0:
        raise ProfError(f"--achieved-tflops {tflops:g} is absurd: it must be above 0.")
    flops = tflops * 1e12
    if peak_flops is not None and flops > peak_flops:
        raise ProfError(
            f"--achieved-tflops {tflops:g} is absurd: the device's dense peak in this precision is "
            f"{peak_flops / 1e12:g} TFLOP/s."
        )
    return Efficiency("achieved", flops, flops, flops, f"--achieved-tflops {tflops:g}")


def published(device: Device, model: Model, precision: str) -> Efficiency:
    """The catalogue's range for the device, lowered for small models; fp8 reaches less of its doubled peak."""
    low, high = device.efficiency
    source = device.efficiency_source
    if model.shape is not None and model.shape.hidden < SMALL_HIDDEN:
        factor = 0.55 + 0.45 * model.shape.hidden / SMALL_HIDDEN
        low, source = low * factor, f"{source}; lower end reduced for a hidden size of {model.shape.hidden}"
    if model.shape is None:
        low, high = 0.4 * low, 0.8 * high
        source += "; lowered, since it was published for transformers and this is none"
    if precision == "fp8-mixed":
        low, high, source = (
            0.65 * low,
            0.75 * high,
            f"{source}; lowered for fp8, which speeds up only the linear layers",
        )
    return Efficiency("arithmetic", (low * high) ** 0.5, low, high, source)


def machine(own_time: Callable[[], float] = time.perf_counter, *, size: int = 1024) -> Device:
    """This machine's CPU as a device, its fp32 peak by a matrix product that takes a fraction of a second."""
    import psutil
    import torch

    left, right = torch.rand(size, size), torch.rand(size, size)
    best = float("inf")
    for _ in range(4):
        start = own_time()
        left @ right
        best = min(best, own_time() - start)
    source, target = torch.rand(8_000_000), torch.empty(8_000_000)
    copied = float("inf")
    for _ in range(3):
        start = own_time()
        target.copy_(source)
        copied = min(copied, own_time() - start)
    peak = 2.0 * size**3 / best
    memory = float(psutil.virtual_memory().total)
    return Device(
        key="cpu",
        name=f"this machine's CPU ({torch.get_num_threads()} threads)",
        memory_bytes=memory,
        reported_bytes=memory,
        bandwidth_bytes_per_s=2 * 4 * 8e6 / copied,
        peak_flops={"fp32": peak, "tf32": peak, "bf16": peak, "fp16": peak},
        tdp_w=None,
        link_bytes_per_s=None,
        devices_per_node=1,
        network_bytes_per_s=1.25e9,
        efficiency=(0.3, 0.9),
        efficiency_source="share of an fp32 matrix product of 1024 x 1024 measured just now; layers reach 0.3 to 0.9",
        price_usd_per_hour=None,
        price_source="no default: pass --price",
        year=None,
        source="measured on this machine",
    )


def in_use(device: Device, price: float | None) -> Device:
    """The device at the user's price, where one is given. Raises ProfError for a price that can't be."""
    if price is None:
        return device
    if not 0 <= price <= 1e4:
        raise ProfError(f"--price {price:g} is absurd: it is in US dollars per device-hour, commonly 0.2 to 10.")
    return replace(device, price_usd_per_hour=price, price_source="--price")
