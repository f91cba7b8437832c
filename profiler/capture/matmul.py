"""How fast this machine multiplies matrices: the best of about a second of products, in a process of its own.

    python -m profiler.capture.matmul DEVICE FORMAT THREADS

DEVICE as torch names it, FORMAT one of `FORMATS`, THREADS of the CPU (0: torch's choice). Prints TFLOP/s.
Run after the training has ended, never within it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

FORMATS = ("float32", "tf32", "bfloat16", "float16")
_SECONDS = 1.0
_SIZES = {"cpu": (256, 512, 1024, 2048)}
_ACCELERATOR_SIZES = (2048, 4096, 8192)


def best_tflops(device: str, number_format: str, threads: int, seconds: float = _SECONDS) -> float:
    """The best rate among the sizes, in 10¹² multiplications and additions a second.

    Raises ValueError for a format that it does not know, and what torch raises for a device that is not there.
    """
    if number_format not in FORMATS:
        raise ValueError(f"unknown number format {number_format!r}: one of {', '.join(FORMATS)}")
    import torch

    if threads > 0:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if number_format == "tf32" else "highest")
    dtype = torch.float32 if number_format in ("float32", "tf32") else getattr(torch, number_format)
    kind = torch.device(device).type
    wait: Callable[[], Any] = (lambda: None) if kind == "cpu" else getattr(torch, kind).synchronize
    sizes = _SIZES.get(kind, _ACCELERATOR_SIZES)
    repeats = 1 if kind == "cpu" else 10
    best, expected_s = 0.0, 0.0
    for size in sizes:
        if expected_s > seconds:  # a format that this processor emulates
            break
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = left @ right
        wait()
        fastest_s = float("inf")
        until = time.perf_counter() + seconds / len(sizes)
        while fastest_s == float("inf") or time.perf_counter() < until:
            began = time.perf_counter()
            for _ in range(repeats):
                torch.mm(left, right, out=out)
            wait()
            fastest_s = min(fastest_s, (time.perf_counter() - began) / repeats)
        best = max(best, 2 * size**3 / fastest_s / 1e12)
        expected_s = 8 * fastest_s
    return best


if __name__ == "__main__":
    print(best_tflops(sys.argv[1], sys.argv[2], int(sys.argv[3])))
