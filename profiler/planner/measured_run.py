"""A finished run as the planner reads it.

In:  a run folder's `summary.json`, schema 1.
Out: `Run`: one rank's step by what its parts grow with, and its memory by category.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.errors import ProfError
from profiler.planner.script import optimizer_name


@dataclass(frozen=True, slots=True)
class Run:
    """What one summary says, for one rank. Milliseconds per step, bytes, samples."""

    name: str
    command: tuple[str, ...]
    device: str
    ranks: int
    cores: int | None
    batch: int | None  # samples per step
    growing_ms: float  # forward, backward, host_to_device: with the batch
    optimizer_ms: float
    fixed_ms: float  # other
    communication_ms: float  # exposed
    waited_ms: float  # data_wait
    step_ms: float
    spread: float  # half of p95 − p5 over the median
    workers: int | None
    batch_ms: float | None  # one batch's work in a worker, for the loader's own batch
    loader_batch: int | None
    parameters: float | None
    trainable: float | None
    parameter_bytes: float | None
    categories: dict[str, float]
    optimizer: str | None
    link: Link | None = None
    micro_batches: float = 1.0  # per step
    precision: str = "fp32"  # the recipe that its settings show

    @property
    def micro_batch(self) -> float | None:
        """Samples of one forward pass."""
        return None if self.batch is None else self.batch / self.micro_batches


@dataclass(frozen=True, slots=True)
class Link:
    """What the run's own all-reduces took: `latency_ms` a call, and the rate of what each rank sends."""

    latency_ms: float
    gigabytes_per_s: float
    messages: float  # a step that carry the gradients

    def ring_ms(self, ranks: int, measured_ranks: int, total_bytes: float) -> float:
        """A ring of so many: its hops grow with the ranks, and the bytes that each sends by 2(n-1)/n."""
        hops = (ranks - 1) / max(measured_ranks - 1, 1)
        sent = 2 * (ranks - 1) / ranks * total_bytes
        return self.messages * self.latency_ms * hops + sent / self.gigabytes_per_s / 1e6


def _link_of(summary: dict[str, Any]) -> Link | None:
    """The model of the link that a job's summary holds."""
    job = summary.get("ranks")
    if not isinstance(job, dict):
        return None
    for each in job.get("links") or []:
        if each.get("kind") == "all_reduce" and float(each.get("gigabytes_per_s") or 0.0) > 0:
            buckets = (job.get("reduction") or {}).get("bucket_bytes") or ()
            rows = [row for row in job.get("collectives") or [] if row.get("kind") == "all_reduce"]
            messages = float(len(buckets)) or sum(float(row.get("calls") or 0.0) for row in rows) or 1.0
            return Link(float(each["latency_ms"]), float(each["gigabytes_per_s"]), messages)
    return None


def read_summary(path: Path) -> tuple[dict[str, Any], str]:
    file = path / "summary.json" if path.is_dir() else path
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise ProfError(
            f"{file} can't be read ({error.strerror}): pass the folder of a finished run, as `prof list` shows it."
        ) from error
    except ValueError as error:
        raise ProfError(f"{file} is damaged: it is not JSON.") from error
    if not isinstance(value, dict) or value.get("schema_version") != 1:
        raise ProfError(f"{file} is not a summary of schema 1.")
    return value, (path if path.is_dir() else path.parent).name


def typical_ms(stages: dict[str, Any], median_ms: float) -> dict[str, float]:
    """Each stage's median, or its mean where medians do not make a step.

    So it is where a stage comes in some steps only, and where several workers deliver in bursts: of two batches that
    arrive together one costs the whole wait and the other none, and only the mean tells the pace.
    """
    medians = {stage: float(value.get("median_ms") or 0.0) for stage, value in stages.items()}
    if abs(sum(medians.values()) - median_ms) <= 0.1 * median_ms:
        return medians
    return {stage: float(value.get("mean_ms") or 0.0) for stage, value in stages.items()}


def precision_of(settings: dict[str, Any], device: str) -> str:
    """The recipe that a run's settings show: autocast, a model in 16 bit, TF32 on a GPU, else fp32."""
    values = settings.get("values") or {}
    models = [each for each in settings.get("roots") or [] if not each.get("is_loss")]
    largest: dict[str, Any] = max(models, key=lambda each: each.get("parameters") or 0, default={})
    weights = [str(each) for each in largest.get("dtypes") or []]
    if weights and all(each in ("bfloat16", "float16") for each in weights):
        return "bf16"
    autocast = values.get("autocast")
    if isinstance(autocast, dict) and autocast.get("enabled"):
        return "fp16-autocast" if str(autocast.get("dtype")).removeprefix("torch.") == "float16" else "bf16-autocast"
    fast = values.get("tf32_matmul") is True or values.get("matmul_precision") in ("high", "medium")
    return "tf32" if fast and device.lower() != "cpu" else "fp32"


def run_of(summary: dict[str, Any], name: str) -> Run:
    """A run from its summary. Raises ProfError where it holds no steps to calibrate by."""
    steps, stages = summary.get("steps"), summary.get("stages") or {}
    if not isinstance(steps, dict) or not steps.get("median_ms"):
        raise ProfError(
            f"{name} holds no measured steps, so nothing can be calibrated by it: let it run for 20 steps or more."
        )
    settings = summary.get("settings") or {}
    loader = next((each for each in settings.get("loaders") or [] if each.get("trains")), None)
    roots = [each for each in settings.get("roots") or [] if not each.get("is_loss")]
    optimizers = settings.get("optimizers") or []
    workers = summary.get("workers") or {}
    run = summary.get("run") or {}
    typical = typical_ms(stages, float(steps["median_ms"]))
    step, median = sum(typical.values()), float(steps["median_ms"])
    loader_batch = None if loader is None else loader.get("batch_size")
    batches = steps.get("batches") or steps.get("micro_batches") or 1.0
    memory = summary.get("memory") or {}
    batch = memory.get("samples_in_step") or None if loader_batch is None else round(loader_batch * max(1.0, batches))
    growing = sum(typical.get(stage, 0.0) for stage in ("forward", "backward", "host_to_device"))
    known = growing + sum(typical.get(stage, 0.0) for stage in ("optimizer", "communication", "data_wait"))
    spread = (float(steps.get("p95_ms") or median) - float(steps.get("p5_ms") or median)) / 2 / median
    return Run(
        name=name,
        command=tuple(run.get("command") or ()),
        device=str(run.get("device") or "cpu"),
        ranks=int(run.get("ranks") or 1),
        cores=run.get("cores"),
        batch=batch,
        growing_ms=growing,
        optimizer_ms=typical.get("optimizer", 0.0),
        fixed_ms=max(0.0, step - known),
        communication_ms=typical.get("communication", 0.0),
        waited_ms=typical.get("data_wait", 0.0),
        step_ms=step,
        spread=max(0.0, spread),
        workers=None if loader is None else loader.get("num_workers"),
        batch_ms=workers.get("batch_ms"),
        loader_batch=loader_batch,
        parameters=float(sum(each["parameters"] for each in roots)) if roots else None,
        trainable=float(sum(each["trainable_parameters"] for each in roots)) if roots else None,
        parameter_bytes=float(sum(each["parameter_bytes"] for each in roots)) if roots else None,
        categories={key: float(value) for key, value in (memory.get("categories") or {}).items() if value is not None},
        optimizer=optimizer_name(optimizers[0]["name"], bool((optimizers[0].get("extra") or {}).get("momentum")))
        if optimizers
        else None,
        link=_link_of(summary),
        micro_batches=max(1.0, float(steps.get("micro_batches") or 1.0)),
        precision=precision_of(settings, str(run.get("device") or "cpu")),
    )
