"""Ten recorded traces and their known truth, where they are at hand.

The figures are those of the traces' own README: interval unions over all streams; milliseconds.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from profiler.analysis.facts import Facts
from profiler.analysis.trace.facts import facts_of
from profiler.record.trace.read import read_trace

REPOSITORY = Path(__file__).parents[2]


class Truth(NamedTuple):
    span: float
    steps: tuple[int, float, float]  # count, mean, median
    data_wait: float | None
    kernels: int
    kernel_busy: float
    device_busy: float
    busy_of_steps: float | None
    collectives: tuple[int, float, float]  # kernels, busy, exposed
    copies: dict[str, tuple[int, float | None, int | None]]  # count, ms, bytes
    blocked: tuple[float, float]  # of which the device was busy
    idle: tuple[float, float] | None  # in the steps, the device's own where it lags; of it starved
    tensor_cores: float
    stages: dict[str, float]


_TORCHREC_STAGES = {
    "data_wait": 0.4, "host_to_device": 1.0, "forward": 196.5, "backward": 200.7, "optimizer": 15.6, "other": 50.7,
}  # fmt: skip
NO = (0, 0.0, 0.0)
TRUTH = {
    "resnet50_num_workers_0": Truth(
        928.85, (6, 154.75, 154.98), 279.74, 9564, 640.35, 653.53, 0.704, NO,
        {"h2d_pageable": (12, 12.73, 115_607_040)}, (14.2, 12.7), (275.3, 260.6), 0.0,
        {"data_wait": 279.7, "host_to_device": 13.7, "forward": 212.1, "backward": 207.8, "optimizer": 212.9,
         "other": 2.2},
    ),
    "resnet50_num_workers_4": Truth(
        769.84, (6, 128.25, 121.12), 10.22, 9456, 649.81, 669.88, 0.870, NO,
        {"h2d_pageable": (12, 19.72, 115_607_040)}, (94.7, 90.0), (99.9, 63.6), 0.0,
        {"data_wait": 10.2, "host_to_device": 94.5, "forward": 219.9, "backward": 222.0, "optimizer": 187.9,
         "other": 34.9},
    ),
    "resnet50_autograd_api_num_workers_0": Truth(
        5295.42, (5, 161.11, 156.69), 267.60, 9329, 964.76, 979.60, 0.636, NO,
        {"h2d_pageable": (16, 13.49, None), "d2d": (322, None, None)}, (438.8, 376.5), (293.5, 283.3), 0.0,
        {"data_wait": 267.6, "host_to_device": 12.0, "forward": 176.0, "backward": 174.8, "optimizer": 169.4,
         "other": 5.8},
    ),
    "a100_6steps_nccl": Truth(
        465.28, (6, 77.49, 76.83), 0.42, 8568, 369.26, 388.59, 0.835, (60, 163.54, 87.92),
        {"h2d_pinned": (150, 50.66, 423_923_260), "d2h": (60, None, None), "d2d": (18, None, None)},
        (75.9, 75.0), (76.6, 67.4), 0.15, _TORCHREC_STAGES,
    ),
    "a100_3steps_nccl": Truth(
        684.37, (3, 222.37, 222.44), None, 2700, 155.22, 157.50, 0.236, (21, 46.88, 39.56),
        {"d2d": (960, 2.26, None)}, (0.1, 0.0), (509.7, 507.1), 0.24,
        {"forward": 313.8, "backward": 305.8, "optimizer": 46.1, "other": 1.4},
    ),
    "sampled_rank-0": Truth(
        1230.29, (2, 615.12, 615.12), None, 1154, 547.30, 547.66, 0.445, (10, 396.20, 336.98),
        {"h2d_pinned": (8, 0.81, None)}, (1.1, 1.0), None, 0.09, {},
    ),
    "sampled_rank-1": Truth(
        1238.59, (2, 619.27, 619.27), None, 1104, 575.50, 580.05, 0.468, (10, 379.05, 303.52),
        {"h2d_pinned": (8, 12.08, None)}, (0.2, 0.05), None, 0.09, {},
    ),
    "v100_ns_resolution": Truth(
        495.00, (5, 78.83, 95.55), None, 4350, 468.17, 472.46, 0.974, NO,
        {"d2d": (1600, 3.72, None)}, (89.2, 88.2), (11.06, 4.9), 0.0,  # idle until the last work, 89 ms later
        {"forward": 149.5, "backward": 238.1, "optimizer": 5.7, "other": 0.8},
    ),
    "amd_mi250_rocm": Truth(
        9.583, (2, 4.669, 4.669), None, 14, 0.111, 0.149, 0.016, NO,
        {"h2d": (2, 0.038, None)}, (0.16, 0.04), (9.2, 9.0), 0.27, {},
    ),
    "cpu_only": Truth(
        1283.03, (1, 210.11, 210.11), None, 0, 0.0, 0.0, None, NO, {}, (0.0, 0.0), None, 0.0, {},
    ),
}  # fmt: skip


def trace_path(name: str) -> Path:
    """One of the traces; the test is skipped where they are not at hand."""
    folder = Path(os.environ.get("PROF_TRACES") or REPOSITORY.parent / "shared" / "traces")
    path = folder / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"no recorded traces in {folder}: set PROF_TRACES to their folder")
    return path


@cache
def _facts(path: Path) -> Facts:
    return facts_of(read_trace(path)).facts


def trace_facts(name: str) -> Facts:
    """The facts of one of them."""
    return _facts(trace_path(name))
