"""Summaries of runs as `prof attach` writes them, built by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def summary(
    *,
    batch: int | None = 64,
    forward_ms: float = 20.0,
    backward_ms: float = 40.0,
    optimizer_ms: float = 8.0,
    other_ms: float = 2.0,
    wait_ms: float = 0.0,
    workers: int = 0,
    batch_ms: float | None = None,
    communication_ms: float = 0.0,
    ranks: int = 1,
    device: str = "NVIDIA A100-SXM4-80GB",
    activations: int = 64_000_000,
    command: tuple[str, ...] = ("python", "train.py"),
    micro_batches: int = 1,
    values: dict[str, Any] | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """A run of a model with a million parameters under AdamW; `batch` is the loader's, one micro-batch."""
    stages = {
        "data_wait": wait_ms, "forward": forward_ms, "backward": backward_ms, "optimizer": optimizer_ms,
        "communication": communication_ms, "other": other_ms,
    }  # fmt: skip
    step = sum(stages.values())
    loader = {"batch_size": batch, "num_workers": workers, "trains": True}
    root = {"is_loss": False, "parameters": 1_000_000, "trainable_parameters": 1_000_000, "parameter_bytes": 4_000_000,
            "dtypes": [dtype]}  # fmt: skip
    return {
        "schema_version": 1,
        "run": {"command": list(command), "device": device, "ranks": ranks, "cores": 8},
        "steps": {"median_ms": step, "mean_ms": step, "p5_ms": 0.98 * step, "p95_ms": 1.02 * step,
                  "batches": float(micro_batches), "micro_batches": float(micro_batches)},
        "stages": {name: {"median_ms": value, "mean_ms": value} for name, value in stages.items()},
        "workers": None if batch_ms is None else {"batch_ms": batch_ms},
        "memory": {
            "categories": {
                "parameters": 4_000_000, "gradients": 4_000_000, "optimizer": 8_000_000, "activations": activations,
            }
        },
        "settings": {
            "loaders": [] if batch is None else [loader],
            "roots": [root, {"is_loss": True, "parameters": 0, "trainable_parameters": 0, "parameter_bytes": 0}],
            "optimizers": [{"name": "AdamW", "extra": {}}],
            "values": values or {},
        },
    }  # fmt: skip


def run_folder(folder: Path, value: dict[str, Any]) -> Path:
    """A run folder that holds this summary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(value), encoding="utf-8")
    return folder
