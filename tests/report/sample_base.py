"""The sample that the others vary, and its pieces: a training bound by its data."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

from profiler.analysis.facts import (
    Facts,
    Histogram,
    LineTime,
    LoaderSettings,
    Machine,
    MemoryFacts,
    MemorySample,
    OptimizerSettings,
    OutlierStep,
    Overhead,
    RootSettings,
    RunFacts,
    Settings,
    SpanFacts,
    StageFacts,
    StepFacts,
    Timeline,
    WorkerFacts,
)
from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Bottleneck, Finding, Fix, Gain, Severity
from profiler.rules.verdict import Judgement, Result, Verdict

ROOT = "/home/ada/birds"
TRAIN = f"{ROOT}/train.py"
DATASET = f"{ROOT}/birds/dataset.py"
HOSTILE = '</script><script>window.broken=1</script><img src=x onerror="window.broken=1"><!--<b>%{x}\u2028\x1b[31m'
STAGE_SHARES = {"data_wait": 0.62, "forward": 0.14, "backward": 0.17, "optimizer": 0.05, "other": 0.02}


def timeline(stages_ms: dict[str, float], rows: int, steps_per_row: int, pause_after: int | None = None) -> Timeline:
    """Rows that wander a little around the stages' means, with a stall now and then."""
    dice = random.Random(3)
    starts, walls, slowest, stages = [], [], [], {name: [] for name in stages_ms}
    now = 0.0
    for row in range(rows):
        sway = 1 + 0.05 * math.sin(row / 17) + dice.gauss(0, 0.02)
        values = {name: value * sway * (1 + dice.gauss(0, 0.03)) for name, value in stages_ms.items()}
        wall = sum(values.values())
        starts.append(now)
        walls.append(wall)
        slowest.append(wall * (4.2 if row % 131 == 97 else 1.05 + abs(dice.gauss(0, 0.06))))
        for name, value in values.items():
            stages[name].append(value)
        now += wall * steps_per_row / 1000
        if pause_after and row % pause_after == pause_after - 1:
            now += 3.1
    return Timeline(
        steps_per_row,
        tuple(starts),
        tuple(walls),
        tuple(slowest),
        {name: tuple(values) for name, values in stages.items()},
    )


def histogram(median_ms: float, spread_ms: float, steps: int) -> Histogram:
    """A skewed hump in 400 bins, and one stray step far away."""
    width = spread_ms / 12
    edges = [median_ms - 2 * spread_ms + width * index for index in range(401)]
    weights = []
    for left, right in pairwise(edges):
        distance = ((left + right) / 2 - median_ms) / spread_ms
        weights.append(math.exp(-2 * distance**2) if distance < 0 else math.exp(-1.2 * distance))
    total = sum(weights)
    counts = [round(steps * weight / total) for weight in weights]
    counts[-1] = 1
    return Histogram(tuple(edges), tuple(counts))


def stage(name: str, mean_ms: float, share: float, **more: object) -> StageFacts:
    """A stage with a plausible spread."""
    return StageFacts(
        name,
        median_ms=round(mean_ms * 0.98, 4),
        mean_ms=mean_ms,
        p5_ms=round(mean_ms * 0.93, 4),
        p95_ms=round(mean_ms * 1.12, 4),
        share=share,
        calls_per_step=1.0,
        call=more.pop("call", None),  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def _line(file: str, line: int, source: str, leaf: str, share: float, stage_ms: float, samples: int) -> LineTime:
    return LineTime(Site(file, line), leaf, samples, share, round(share * stage_ms, 4), source)


def data_bound() -> Result:
    """62 % of a 63.5 ms step goes to decoding JPEG files on the training thread."""
    step_ms = 63.5
    means = {name: round(step_ms * share, 4) for name, share in STAGE_SHARES.items()}
    stages = {name: stage(name, means[name], share) for name, share in STAGE_SHARES.items()}
    stages["data_wait"] = replace(
        stages["data_wait"],
        call=Site(TRAIN, 52),
        lines=(
            _line(
                DATASET,
                31,
                "        image = Image.open(path).convert('RGB')",
                "PIL.Image.Image.load",
                0.71,
                39.37,
                18210,
            ),
            _line(
                DATASET,
                34,
                "        image = self.augment(image)",
                "torchvision.transforms.RandomResizedCrop",
                0.22,
                39.37,
                5643,
            ),
            _line(DATASET, 37, "        return to_tensor(image), label", "", 0.05, 39.37, 1282),
        ),
    )
    stages["forward"] = replace(
        stages["forward"], call=Site(TRAIN, 55), parts_ms={"model": 8.6, "loss": 0.29}, calls_per_step=2.0
    )
    stages["backward"] = replace(stages["backward"], call=Site(TRAIN, 57))
    stages["optimizer"] = replace(
        stages["optimizer"],
        call=Site(TRAIN, 58),
        parts_ms={"step": 2.71, "zero_grad": 0.31, "scheduler": 0.06},
        calls_per_step=3.0,
    )
    stages["other"] = replace(
        stages["other"],
        lines=(_line(TRAIN, 61, "        history.append(loss.item())", "torch.Tensor.item", 0.8, 1.27, 610),),
    )
    steps = StepFacts(
        count=9984,
        warmup=24,
        measured=9960,
        median_ms=63.02,
        mean_ms=step_ms,
        p5_ms=59.1,
        p95_ms=71.9,
        noise_ms=0.11,
        micro_batches=1.0,
        batches=1.0,
        drift_share=None,
        outliers=(
            OutlierStep(2187, 141.2, 268.4, "data_wait", 204.1, None),
            OutlierStep(4992, 318.9, 412.7, "data_wait", 349.0, "epoch boundary"),
        ),
        outlier_share=0.004,
        explicit=False,
    )
    workers = WorkerFacts(
        processes=0,
        batches=9984,
        load_ms=2.1,
        preprocess_ms=34.8,
        collate_ms=1.9,
        run_delay_ms=0.2,
        batch_ms=39.2,
        batch_p95_ms=46.0,
        busy_share=0.62,
        read_bytes=182_000.0,
        items=32.0,
    )
    memory = MemoryFacts(
        peak_rss_bytes=1_482_000_000,
        peak_device_bytes=None,
        reserved_device_bytes=None,
        device_capacity_bytes=None,
        workers_peak_rss_bytes=None,
        stage_peak_bytes={"data_wait": 1_120_000_000, "forward": 1_391_000_000, "backward": 1_482_000_000},
        categories_bytes={
            "parameters": 46_830_000,
            "gradients": 46_830_000,
            "optimizer": 93_660_000,
            "activations": 312_400_000,
        },
        activations_by_module=(
            ("layer1.0 (BasicBlock)", 102_760_448),
            ("layer1.1 (BasicBlock)", 77_070_336),
            ("conv1 (Conv2d)", 51_380_224),
            ("layer2.0 (BasicBlock)", 44_957_696),
            ("layer3.0 (BasicBlock)", 22_478_848),
        ),
        growth_bytes_per_step=None,
        growth_bytes=None,
        timeline=tuple(
            MemorySample(index * 0.7, int(4e8 + 1e9 * (1 - math.exp(-index / 25)) + 3e7 * math.sin(index / 5)))
            for index in range(950)
        ),
    )
    facts = Facts(
        run=RunFacts(
            name="train-20260301-141503",
            command=("python", "train.py", "--epochs", "2", "--data", "photos of birds"),
            script=TRAIN,
            torch="2.13.0",
            python="3.11.7",
            ranks=1,
            duration_s=668.4,
            exit_code=0,
            signal=None,
            ended=True,
            started_unix_s=1_772_374_503.0,
        ),
        machine=Machine(
            cores=8,
            memory_bytes=33_500_000_000,
            device="cpu",
            asynchronous=False,
            device_times=False,
            idle_cores=5.9,
            iowait_cores=0.02,
            process_cores=1.8,
        ),
        steps=steps,
        stages=stages,
        workers=workers,
        memory=memory,
        spans=(
            SpanFacts("startup", 1, 4.2, 4.2, 4.2 / 668.4, None, ((0.0, 4.2),)),
            SpanFacts("evaluation", 2, 24.6, 12.5, 24.6 / 668.4, Site(TRAIN, 66), ((321.9, 334.0), (651.2, 663.7))),
            SpanFacts("checkpoint", 2, 1.9, 1.1, 1.9 / 668.4, Site(TRAIN, 71), ((334.0, 334.8), (663.7, 664.8))),
            SpanFacts("instrument", 1, 0.41, 0.41, 0.41 / 668.4, None, ((6.1, 6.51),)),
        ),
        gc_ms_per_step=0.021,
        gc_pauses=118,
        settings=Settings(
            loaders=(
                LoaderSettings(
                    1,
                    "birds.dataset.Birds",
                    32,
                    0,
                    False,
                    None,
                    False,
                    False,
                    True,
                    159_744,
                    None,
                    Site(TRAIN, 41),
                    True,
                ),
            ),
            roots=(
                RootSettings(
                    1,
                    "ResNet",
                    False,
                    11_689_512,
                    46_758_048,
                    11_689_512,
                    ("float32",),
                    67,
                    False,
                    Site(TRAIN, 55),
                ),
                RootSettings(2, "CrossEntropyLoss", True, 0, 0, 0, (), 0, False, Site(TRAIN, 56)),
            ),
            optimizers=(OptimizerSettings(1, "AdamW", None, None, False, 62, 1, 11_689_512, Site(TRAIN, 44)),),
            values={"torch_num_threads": 8, "matmul_precision": "highest"},
            sites={"torch_num_threads": Site(TRAIN, 12)},
        ),
        overhead=Overhead(6.4, 0.0001, 18.0, 0.0021, 0.41),
        timeline=timeline(means, rows=416, steps_per_row=24, pause_after=208),
        histogram=histogram(63.02, 4.0, 9960),
        operators=(
            {
                "name": "aten::mkldnn_convolution",
                "stage": "forward",
                "ms_per_step": 6.1,
                "calls_per_step": 20.0,
            },
            {
                "name": "aten::convolution_backward",
                "stage": "backward",
                "ms_per_step": 8.4,
                "calls_per_step": 20.0,
            },
        ),
        not_measured={
            "host_to_device": "the run used no accelerator",
            "communication": "one rank",
            "device": "no NVIDIA device was found",
        },
        notices=(),
        root=ROOT,
    )
    findings = (
        Finding(
            rule="data/too-few-workers",
            bottleneck=Bottleneck.DATA_PREPROCESSING,
            severity=Severity.CRITICAL,
            title="The loop waits 39.4 ms of every 63.5 ms step for batches that 5 idle cores could have prepared.",
            why="With num_workers=0 the training thread decodes and augments every image itself: "
            "34.8 ms of computing per batch, while on average 5.9 of 8 cores stood idle.",
            evidence={"data_wait_share": 0.62, "preprocess_ms": 34.8, "idle_cores": 5.9, "num_workers": 0.0},
            gain=Gain.of(63.5, 35.2, 39.0),
            fix=Fix(
                "Let worker processes prepare the batches.",
                "loader = DataLoader(\n    dataset,\n    batch_size=32,\n    shuffle=True,\n"
                "    num_workers=5,\n    persistent_workers=True,\n)",
                TRAIN,
                41,
            ),
            reference="torch.utils.data, “Single- and Multi-process Data Loading”",
            recoverable_ms=39.0,
        ),
        Finding(
            rule="optimizer/for-loop",
            bottleneck=Bottleneck.OPTIMIZER,
            severity=Severity.INFO,
            title="AdamW updates 62 tensors one by one: 2.71 ms a step.",
            why="Without fused=True each tensor is updated by several small kernels of its own.",
            evidence={"optimizer_ms": 3.17, "tensors": 62.0},
            gain=Gain.of(63.5, 1.1, 1.9),
            fix=Fix("Use the fused update.", "AdamW(model.parameters(), lr=3e-4, fused=True)", TRAIN, 44),
            reference="torch.optim.AdamW, fused",
            recoverable_ms=1.9,
        ),
    )
    judgement = Judgement(
        Verdict(
            Bottleneck.DATA_PREPROCESSING,
            "data/too-few-workers",
            Severity.CRITICAL,
            "62 % of every step goes to preparing the next batch on the training thread, "
            "while 5 of 8 cores stand idle.",
        ),
        findings,
        (Abstention("memory/growth", "resident memory was still settling when the run ended"),),
        (),
    )
    return Result(facts, judgement)
