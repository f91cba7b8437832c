"""host/garbage-collection."""

from __future__ import annotations

from profiler.analysis.facts import Facts, LineTime
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.host.python_line import PythonLine
from profiler.rules.phrases import counted, ms, number, percent

LEAST, MOST = 0.9, 0.99  # of the collections' time that goes away; those of every 1,000th step remain


class GarbageCollection(Rule):
    """Python's garbage collector takes much of the step.

    ## Why it is slow
    A full collection visits each object that could be part of a cycle, with the dataset's lists and the
    modules among them, while the training thread stands still. Objects that each step makes bring the next
    one on.

    ## Evidence
    Collections on the training thread that lasted at least 20 µs took at least `threshold` of the mean step, in
    at least `collections` of the measured steps: one long pause says nothing of the others. It is
    silent where a line that calls `gc.collect()` was sampled for most of that time: `host/python-line` names it.

    ## Fix
    `gc.freeze()` after the set-up, so that what lives on is not visited; and collect at times of your own
    choice. Where automatic collection is off already, call `gc.collect()` less often.

    ## Gain
    90 % to 99 % of the collections' time: what is frozen is not visited, and the rest every 1,000th step.

    ## Reference
    Python documentation, gc.freeze and gc.disable.
    """

    id = "host/garbage-collection"
    evidence = "training"
    bottleneck = Bottleneck.HOST_OVERHEAD
    threshold = Threshold(0.05, "share of the step in garbage collection")
    collections = Threshold(5, "measured steps with a collection below which nothing is said")

    def check(self, facts: Facts) -> Outcome:
        """Judge the collections' share of the step."""
        whole, steps = step_ms(facts), facts.steps
        if facts.gc_ms_per_step is None or steps is None:
            return self.abstain(facts.not_measured.get("garbage collection", "no step's collections were timed"))
        collects = min(facts.gc_ms_per_step, whole)
        if collects < self.threshold.value * whole or not worth(facts, MOST * collects):
            return None
        if facts.gc_steps < self.collections.value:
            return self.abstain("garbage was collected in too few of the measured steps to tell what it takes of each")
        called = sum(line.ms_per_step for stage in facts.stages.values() for line in stage.lines if _collects(line))
        if called >= collects / 2:
            return None
        standing = facts.settings.values.get("gc")
        by_hand = isinstance(standing, dict) and standing.get("enabled") is False
        why = (
            "Automatic collection is off, so these are calls of gc.collect()."
            if by_hand
            else "Each visits the objects that live on, again and again."
        )
        return self.finding(
            title=f"garbage collection takes {percent(collects / whole)} of each {ms(whole)} step",
            why=(
                f"{counted(facts.gc_pauses, 'collection')} in a run of {number(steps.count)} steps held the training "
                f"thread for {ms(collects)} a step. {why}"
            ),
            evidence={
                "gc_ms": collects,
                "gc_share": collects / whole,
                "gc_pauses": float(facts.gc_pauses),
                "step_ms": whole,
            },
            fix=Fix("Call gc.collect() every 1,000th step.", _RARELY)
            if by_hand
            else Fix("Freeze what lives on, and collect at times of your own choice.", _FREEZE),
            gain=Gain.of(whole, LEAST * collects, MOST * collects),
            step_ms=whole,
        )


def _collects(line: LineTime) -> bool:
    """Whether the line calls the collector, and was seen often enough to be named by its own rule."""
    return line.told_by(PythonLine.samples.value) and "gc.collect(" in line.source.split("#", 1)[0]


_RARELY = """\
if step % 1000 == 0:
    gc.collect()"""
_FREEZE = f"""\
import gc

gc.collect()
gc.freeze()   # after the model and the dataset are made, before the loop
gc.disable()  # tensors in reference cycles then wait for the next collection; in the loop:
{_RARELY}"""
