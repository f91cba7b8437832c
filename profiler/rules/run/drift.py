"""run/drift."""

from __future__ import annotations

import math
from statistics import median

from profiler.analysis.facts import Facts, Timeline
from profiler.record.vocabulary import GPU_SLOWDOWN
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.phrases import joined, ms, percent, seconds, size


class Drift(Rule):
    """Steps get slower as the run goes on.

    ## Why it is slow
    Something grows with the steps, such as a list that each step walks through or a graph that is kept, or
    the machine gives less than at the start: heat, or other programs.

    ## Evidence
    The median step of the last third is longer than that of the first by at least `slower`, beyond the
    noise of both, over measured steps that lasted at least `min_s` together. The stage that grew most is
    named, and of causes only what stands in the record: memory that grew, a device that was slowed down
    for heat or power, collections of garbage of at least `gc_share` of the step. It is a note: inputs
    that grow on purpose look the same.

    ## Fix
    Mend the growth where there is some; else give the training the machine to itself and look again.

    ## Gain
    Not promised: at best every step is as short as the first ones.

    ## Reference
    Hoefler and Belli, "Scientific Benchmarking of Parallel Computing Systems", 2015.
    """

    id = "run/drift"
    evidence = "training"
    bottleneck = Bottleneck.OTHER
    per_step = False
    needs_device_times = False
    slower = Threshold(0.15, "growth of the median step from the first to the last third")
    min_s = Threshold(30.0, "time of all measured steps below which nothing is said, in seconds")
    gc_share = Threshold(0.05, "share of the step in garbage collection from which it is named")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether steps got slower, and name what the record shows beside it."""
        steps = facts.steps
        if steps is None or steps.drift_share is None or steps.drift_share < self.slower.value:
            return None
        lasted = steps.measured * steps.mean_ms / 1000
        if lasted < self.min_s.value:
            return None
        grows = facts.memory.growth_bytes_per_step
        beside = [f"memory that grew by {size(grows)} a step"] if grows else []
        if int(facts.machine.gpu.get("throttle_reasons", 0)) & GPU_SLOWDOWN:
            beside.append("a device that was slowed down for heat or power")
        collects = facts.gc_ms_per_step or 0.0
        if collects >= self.gc_share.value * steps.mean_ms:
            beside.append(f"{ms(collects)} of garbage collection a step")
        because = f" Beside it stand {joined(beside)}." if beside else " The record shows no cause for it."
        grown = _grown(facts.timeline, steps.warmup)
        stage = f" Most of it is in {grown[0]}, which grew by {ms(grown[1])}." if grown else ""
        return self.finding(
            title=f"steps got slower by {percent(steps.drift_share)} from the first third of the run to the last",
            why=(
                f"That is over {seconds(lasted)} of measured steps, whose median is {ms(steps.median_ms)}."
                f"{stage}{because}"
            ),
            evidence={
                "drift_share": steps.drift_share,
                "median_ms": steps.median_ms,
                "measured_s": lasted,
                **({"growth_bytes_per_step": grows} if grows else {}),
                **({f"{grown[0]}_grew_ms": grown[1]} if grown else {}),
            },
            fix=Fix("Keep nothing that grows with the steps.", _CODE)
            if grows
            else Fix("Run again with the machine to the training alone, and see whether steps still get slower."),
            severity=Severity.INFO,
        )


def _grown(timeline: Timeline | None, warmup: int) -> tuple[str, float] | None:
    """The stage whose median row grew most from the first to the last third, and by how many ms."""
    if timeline is None or not timeline.stages_ms:
        return None
    skipped = math.ceil(warmup / max(timeline.steps_per_row, 1))
    third = (len(timeline.wall_ms) - skipped) // 3
    if third < 1:
        return None
    grew = {
        name: median(rows[-third:]) - median(rows[skipped : skipped + third])
        for name, rows in timeline.stages_ms.items()
    }
    name = max(grew, key=lambda name: grew[name])
    return (name, grew[name]) if grew[name] > 0 else None


_CODE = """\
history = collections.deque(maxlen=100)  # not a list that each step appends to
history.append(loss.detach())"""
