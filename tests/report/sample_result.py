"""Results with fixed numbers, as the analysis and the rules would hand them to a report."""

from __future__ import annotations

import math
from dataclasses import replace

import sample_device
from sample_base import HOSTILE, STAGE_SHARES, data_bound, histogram, stage, timeline

from profiler.analysis.facts import LineTime, MemoryFacts, OutlierStep, Overhead, SpanFacts
from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Bottleneck, Fix, Gain, Severity
from profiler.rules.verdict import Judgement, Result, Verdict


def healthy() -> Result:
    """The same training with the loader cured: the model's arithmetic is what is left."""
    base = data_bound()
    shares = {"data_wait": 0.01, "forward": 0.38, "backward": 0.46, "optimizer": 0.13, "other": 0.02}
    means = {name: round(24.4 * share, 4) for name, share in shares.items()}
    assert base.facts.steps and base.facts.workers
    steps = replace(
        base.facts.steps,
        median_ms=24.3,
        mean_ms=24.4,
        p5_ms=23.6,
        p95_ms=25.9,
        noise_ms=0.05,
        outliers=(),
        outlier_share=0.0,
    )
    workers = replace(base.facts.workers, processes=5, busy_share=0.36)
    facts = replace(
        base.facts,
        steps=steps,
        stages={name: stage(name, means[name], share) for name, share in shares.items()},
        workers=workers,
        timeline=timeline(means, rows=416, steps_per_row=24),
        histogram=histogram(24.3, 0.7, 9960),
    )
    verdict = Verdict(
        Bottleneck.COMPUTE,
        None,
        Severity.INFO,
        "The model's own arithmetic takes 84 % of the step, and nothing stands in its way.",
    )
    return Result(facts, Judgement(verdict, (), (), ()))


def too_short() -> Result:
    """Four steps: nothing can be judged."""
    base = data_bound()
    assert base.facts.steps
    facts = replace(
        base.facts,
        run=replace(base.facts.run, duration_s=5.1, exit_code=130, signal="SIGINT", ended=False),
        steps=replace(base.facts.steps, count=4, warmup=2, measured=2, outliers=(), outlier_share=0.0),
        workers=None,
        memory=MemoryFacts(None, None, None, None, None, {}, {}, (), None, None, ()),
        spans=(),
        gc_ms_per_step=None,
        gc_pauses=0,
        overhead=Overhead(None, None, 18.0, None, 0.0),
        timeline=timeline({name: 63.5 * share for name, share in STAGE_SHARES.items()}, rows=4, steps_per_row=1),
        histogram=None,
        operators=(),
        not_measured={
            "memory": "the run ended before the first reading",
            "workers": "no batch was prepared in full",
        },
    )
    verdict = Verdict(
        Bottleneck.NONE,
        None,
        Severity.INFO,
        "4 steps are too few to judge: run the training for at least 20.",
    )
    abstentions = tuple(
        Abstention(rule, "fewer than 20 measured steps")
        for rule in ("data/too-few-workers", "data/heavy-transform", "optimizer/for-loop", "memory/growth")
    )
    return Result(facts, Judgement(verdict, (), abstentions, ()))


def no_training() -> Result:
    """A script in which no step was seen."""
    base = too_short()
    facts = replace(base.facts, steps=None, stages={}, timeline=None, notices=("no training step was seen",))
    verdict = Verdict(
        Bottleneck.NONE, None, Severity.INFO, "No training step was seen: the script never called backward."
    )
    return Result(facts, Judgement(verdict, (), (), ()))


def host_times() -> Result:
    """An H100 whose own clock was not read: the copy back looks slow since it waits for the forward."""
    base = data_bound()
    shares = {
        "data_wait": 0.03,
        "host_to_device": 0.02,
        "forward": 0.08,
        "backward": 0.11,
        "optimizer": 0.06,
        "other": 0.70,
    }
    means = {name: 180.0 * share for name, share in shares.items()}
    assert base.facts.steps
    facts = replace(
        base.facts,
        machine=replace(
            base.facts.machine,
            device="NVIDIA H100 80GB HBM3",
            asynchronous=True,
            gpu={"utilization_percent": 97.0, "power_w": 612.0},
        ),
        steps=replace(
            base.facts.steps,
            count=402,
            warmup=2,
            measured=400,
            median_ms=179.2,
            mean_ms=180.0,
            p5_ms=176.0,
            p95_ms=188.0,
            outliers=(),
        ),
        stages={name: stage(name, means[name], share) for name, share in shares.items()},
        memory=replace(
            base.facts.memory,
            peak_device_bytes=41_200_000_000,
            reserved_device_bytes=47_000_000_000,
            device_capacity_bytes=85_000_000_000,
            timeline=tuple(
                replace(sample, device_bytes=int(3.6e10 + 4e9 * math.sin(index / 9)))
                for index, sample in enumerate(base.facts.memory.timeline)
            ),
        ),
        timeline=timeline(means, rows=400, steps_per_row=1),
        histogram=histogram(179.2, 4.0, 400),
        not_measured={"device": "device times were not recorded"},
    )
    verdict = Verdict(
        Bottleneck.COMPUTE,
        None,
        Severity.INFO,
        "The host spends most of the step waiting for the device, which is 97 % busy.",
    )
    return Result(facts, Judgement(verdict, (), (), ()))


def million_steps() -> Result:
    """1,000,000 steps, in as many rows as an analysis would plausibly keep."""
    base = data_bound()
    means = {name: 0.9 * share for name, share in STAGE_SHARES.items()}
    assert base.facts.steps
    facts = replace(
        base.facts,
        run=replace(base.facts.run, duration_s=931.0),
        steps=replace(
            base.facts.steps,
            count=1_000_000,
            warmup=40,
            measured=999_960,
            median_ms=0.88,
            mean_ms=0.9,
            p5_ms=0.84,
            p95_ms=1.02,
            noise_ms=0.0004,
            drift_share=0.08,
            outliers=(OutlierStep(312_450, 281.2, 4.16, "data_wait", 3.2, "garbage collection"),),
        ),
        workers=None,
        stages={name: stage(name, means[name], share) for name, share in STAGE_SHARES.items()},
        timeline=timeline(means, rows=4000, steps_per_row=250),
        histogram=histogram(0.88, 0.06, 999_960),
    )
    finding = replace(
        base.judgement.findings[0],
        title="The loop waits 0.56 ms of every 0.90 ms step for batches that 5 idle cores could have prepared.",
        why="With num_workers=0 the training thread prepares every batch itself, while 5.9 of 8 cores stood idle.",
        evidence={"data_wait_share": 0.62, "idle_cores": 5.9},
        gain=Gain.of(0.9, 0.41, 0.55),
    )
    return Result(facts, replace(base.judgement, findings=(finding,)))


def hostile() -> Result:
    """Everything that a run can name is an attack."""
    base = data_bound()
    facts, bad = base.facts, HOSTILE
    site = Site(f"/tmp/{bad}.py", 7, bad)
    line = LineTime(site, bad, 10, 0.9, 30.0, bad)
    own = replace(
        stage(bad, facts.stages["other"].mean_ms, facts.stages["other"].share),
        lines=(line,),
        parts_ms={bad: 1.0},
    )
    stages = {name: value for name, value in facts.stages.items() if name != "other"} | {bad: own}
    assert facts.timeline and facts.steps and facts.workers
    timeline_stages = {name if name != "other" else bad: row for name, row in facts.timeline.stages_ms.items()}
    finding = base.judgement.findings[0]
    facts = replace(
        facts,
        run=replace(facts.run, name=bad, command=("python", bad), script=bad, torch=bad, python=bad, signal=bad),
        machine=replace(facts.machine, device=bad, asynchronous=True, gpu={bad: 1.0}),
        steps=replace(facts.steps, outliers=(OutlierStep(1, 1.0, 90.0, bad, 30.0, bad),)),
        stages=stages,
        workers=replace(facts.workers, lines=(line,)),
        memory=replace(
            facts.memory,
            activations_by_module=((bad, 5),),
            categories_bytes={bad: 5},
            stage_peak_bytes={bad: 5},
        ),
        spans=(SpanFacts(bad, 1, 1.0, 1.0, 0.1, site, ((0.0, 1.0),)),),
        settings=replace(
            facts.settings,
            loaders=(replace(facts.settings.loaders[0], dataset=bad, extra={bad: bad}, site=site),),
            values={bad: [bad, {bad: bad}]},
            sites={bad: site},
        ),
        timeline=replace(facts.timeline, stages_ms=timeline_stages),
        operators=({"name": bad, "stage": bad, "ms_per_step": 1.0, "calls_per_step": 1.0},),
        not_measured={bad: bad},
        notices=(bad,),
        root="",
    )
    attack = replace(
        finding, rule=bad, title=bad, why=bad, evidence={bad: 1.0}, fix=Fix(bad, bad, bad, 3), reference=bad
    )
    judgement = Judgement(
        replace(base.judgement.verdict, summary=bad, rule=bad),
        (attack, attack),
        (Abstention(bad, bad),),
        ((bad, bad),),
    )
    return Result(facts, judgement)


ALL = {
    "data_bound": data_bound,
    "healthy": healthy,
    "too_short": too_short,
    "no_training": no_training,
    "host_times": host_times,
    "million_steps": million_steps,
    "hostile": hostile,
    **sample_device.ALL,
}
