"""Facts made by hand: a healthy training on a CPU, of which a test changes what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from profiler.analysis.facts import (
    Facts,
    LineTime,
    LoaderSettings,
    Machine,
    MemoryFacts,
    MemorySample,
    OptimizerSettings,
    Overhead,
    RootSettings,
    RunFacts,
    Settings,
    SpanFacts,
    StageFacts,
    StepFacts,
    WorkerFacts,
)
from profiler.analysis.site import Site

TRAIN = "/home/ada/vision/train.py"
HEALTHY_MS = {"data_wait": 1.0, "forward": 28.0, "backward": 60.0, "optimizer": 9.0, "other": 2.0}


def line(
    at: int, ms_per_step: float, source: str = "", leaf: str = "", samples: int = 100, function: str = "train"
) -> LineTime:
    """A sampled line of train.py; its share of the stage is set by `stage`."""
    return LineTime(Site(TRAIN, at, function), leaf, samples, 0.0, ms_per_step, source)


def stage(
    name: str,
    mean_ms: float,
    step_ms: float,
    lines: tuple[LineTime, ...] = (),
    parts_ms: dict[str, float] | None = None,
) -> StageFacts:
    """A stage that takes this long in every step."""
    lines = tuple(replace(it, share_of_stage=it.ms_per_step / mean_ms) for it in lines)
    return StageFacts(
        name,
        mean_ms,
        mean_ms,
        mean_ms,
        mean_ms,
        mean_ms / step_ms,
        1.0,
        Site(TRAIN, 40),
        lines,
        parts_ms or {},
    )


def stages(
    times_ms: dict[str, float],
    lines: dict[str, tuple[LineTime, ...]] | None = None,
    **parts_ms: dict[str, float],
) -> dict[str, StageFacts]:
    """Stages whose sum is the step."""
    step_ms = sum(times_ms.values())
    return {
        name: stage(name, mean_ms, step_ms, (lines or {}).get(name, ()), parts_ms.get(name))
        for name, mean_ms in times_ms.items()
    }


def steps(mean_ms: float, measured: int = 500, **changes: Any) -> StepFacts:
    """Steady steps."""
    made = StepFacts(
        count=measured + 5,
        warmup=5,
        measured=measured,
        median_ms=mean_ms,
        mean_ms=mean_ms,
        p5_ms=mean_ms * 0.98,
        p95_ms=mean_ms * 1.03,
        noise_ms=mean_ms * 0.002,
        micro_batches=1.0,
        batches=1.0,
        drift_share=None,
        outliers=(),
        outlier_share=0.0,
        explicit=False,
    )
    return replace(made, **changes)


def workers(processes: int, load_ms: float, preprocess_ms: float, collate_ms: float, **changes: Any) -> WorkerFacts:
    """What making a batch takes."""
    batch_ms = load_ms + preprocess_ms + collate_ms
    made = WorkerFacts(
        processes=processes,
        batches=500,
        load_ms=load_ms,
        preprocess_ms=preprocess_ms,
        collate_ms=collate_ms,
        run_delay_ms=0.0,
        batch_ms=batch_ms,
        batch_p95_ms=batch_ms * 1.1,
        busy_share=0.9,
        read_bytes=None,
        items=32.0,
        lines=(),
    )
    return replace(made, **changes)


def loader(num_workers: int = 0, **changes: Any) -> LoaderSettings:
    """The training's DataLoader, made at train.py:31."""
    made = LoaderSettings(
        id=1,
        dataset="Photographs",
        batch_size=32,
        num_workers=num_workers,
        pin_memory=False,
        prefetch_factor=None,
        persistent_workers=False,
        iterable=False,
        shuffle=True,
        length=16_000,
        context="fork" if num_workers else None,
        site=Site(TRAIN, 31),
        trains=True,
    )
    return replace(made, **changes)


def optimizer(name: str = "AdamW", tensors: int = 150, parameters: int = 150_000, **changes: Any) -> OptimizerSettings:
    """An optimizer made at train.py:25 with torch's defaults."""
    made = OptimizerSettings(
        id=1,
        name=name,
        foreach=None,
        fused=None,
        capturable=False,
        tensors=tensors,
        groups=1,
        parameters=parameters,
        site=Site(TRAIN, 25),
    )
    return replace(made, **changes)


def settings(loaders: tuple[LoaderSettings, ...] = (), optimizers: tuple[OptimizerSettings, ...] = ()) -> Settings:
    """A small network and what the test adds."""
    root = RootSettings(1, "Net", False, 150_000, 600_000, 150_000, ("float32",), 20, False, Site(TRAIN, 41))
    return Settings((loaders or (loader(),)), (root,), (optimizers or (optimizer(fused=True),)), {}, {})


def memory(growth_bytes_per_step: float | None = None, growth_bytes: int | None = None, **changes: Any) -> MemoryFacts:
    """Memory of the process: flat, or growing evenly over the run."""
    start, grown = 800 * 2**20, growth_bytes or 0
    timeline = tuple(MemorySample(float(i), start + grown * i // 29) for i in range(30))
    made = MemoryFacts(
        peak_rss_bytes=start + grown,
        peak_device_bytes=None,
        reserved_device_bytes=None,
        device_capacity_bytes=None,
        workers_peak_rss_bytes=None,
        stage_peak_bytes={},
        categories_bytes={},
        activations_by_module=(),
        growth_bytes_per_step=growth_bytes_per_step,
        growth_bytes=growth_bytes,
        timeline=timeline,
    )
    return replace(made, **changes)


def span(name: str, total_s: float, of_s: float, count: int = 10) -> SpanFacts:
    """A span of the run."""
    return SpanFacts(name, count, total_s, total_s / count * 1.2, total_s / of_s, Site(TRAIN, 70), ())


def cpu(idle_cores: float | None = 0.2, cores: int = 8, **changes: Any) -> Machine:
    """A machine without an accelerator."""
    made = Machine(
        cores,
        16 * 2**30,
        "cpu",
        False,
        False,
        idle_cores,
        0.0,
        None if idle_cores is None else cores - idle_cores,
    )
    return replace(made, **changes)


def gpu(device_times: bool, idle_cores: float | None = 6.5) -> Machine:
    """A machine with an asynchronous device, its clock read or not."""
    return Machine(8, 64 * 2**30, "NVIDIA H100", True, device_times, idle_cores, 0.0, 1.5)


def facts(times_ms: dict[str, float] | None = None, **changes: Any) -> Facts:
    """A healthy training, or one whose stages take these milliseconds, with other fields replaced."""
    times_ms = HEALTHY_MS if times_ms is None else times_ms
    made = Facts(
        run=RunFacts("run", ("train.py",), TRAIN, "2.13.0", "3.11", 1, 60.0, 0, None, True, 0.0),
        machine=cpu(),
        steps=steps(sum(times_ms.values())) if times_ms else None,
        stages=stages(times_ms),
        workers=None,
        memory=memory(),
        spans=(),
        gc_ms_per_step=None,
        gc_pauses=0,
        settings=settings(),
        overhead=Overhead(8.0, 0.0001, 14.0, 0.001, 0.0),
        timeline=None,
        histogram=None,
        operators=(),
        not_measured={},
        notices=(),
        root="/home/ada/vision",
    )
    made = replace(made, **changes)
    if not (made.machine.asynchronous and made.machine.device_times):
        return made
    # a host far ahead of its device
    return replace(made, stages={name: replace(it, host_ms=0.1 * it.mean_ms) for name, it in made.stages.items()})
