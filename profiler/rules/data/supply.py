"""How batches reach the loop: what data rules measure with.

In:  facts.
Out: `Supply`, or why it can't be told.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.facts import Facts, LineTime, LoaderSettings
from profiler.analysis.site import Site
from profiler.rules.base import Gain, Severity, severity_of
from profiler.rules.evidence import host_times, step_ms, worth
from profiler.rules.phrases import ms, percent, place

RELIEF = (0.8, 2.0)  # times the workers' wait for a core: so much of its own time the training thread waits, too
MOST_RELIEF = 0.4
KEEPS_UP = 0.7  # batches arriving within this share of the step are not what it waits for


@dataclass(frozen=True, slots=True)
class Supply:
    """The loop's wait for batches, and what a batch takes: `load` is blocked, the rest is CPU. Means."""

    step_ms: float
    wait_ms: float  # per step; without the start of the workers
    batches: float  # per step
    processes: int
    batch_ms: float
    load_ms: float
    preprocess_ms: float
    collate_ms: float
    loader: LoaderSettings | None

    @property
    def wait_share(self) -> float:
        """Share of the step."""
        return self.wait_ms / self.step_ms

    @property
    def work_ms(self) -> float:
        """The step without its wait."""
        return self.step_ms - self.wait_ms

    @property
    def own_ms(self) -> float:
        """Of a batch, without the time that its maker was ready and had no core."""
        return self.load_ms + self.preprocess_ms + self.collate_ms

    @property
    def delay_share(self) -> float:
        """Of a batch, the time in which its maker was ready and had no core."""
        return 1 - self.own_ms / self.batch_ms

    @property
    def site(self) -> Site | None:
        """Where the loader is made."""
        return self.loader.site if self.loader else None

    @property
    def dominant(self) -> str:
        """The longest part of a batch: "load", "preprocess" or "collate"."""
        parts = {"load": self.load_ms, "preprocess": self.preprocess_ms, "collate": self.collate_ms}
        return max(parts, key=lambda name: parts[name])

    def arrival_ms(self, batch_ms: float, processes: int) -> float:
        """Time between two steps' batches when so many processes make them unhindered."""
        return self.batches * batch_ms / max(processes, 1)

    def step_with(self, batch_ms: float, processes: int) -> float:
        """The step if a batch took that long in so many processes (0: on the training thread)."""
        if processes == 0:
            return self.work_ms + self.batches * batch_ms
        return max(self.work_ms, self.arrival_ms(batch_ms, processes))

    def step_without(self, part_ms: float, relief: float = 0.0) -> float:
        """The step if a batch took that much less, and the rest of the step `relief` of its time less."""
        if self.processes == 0:
            return self.step_ms - min(self.batches * part_ms, self.wait_ms)
        arrival_ms = self.arrival_ms(self.batch_ms - part_ms, self.processes)
        return min(self.step_ms, max(self.work_ms * (1 - relief), arrival_ms))


def supply_of(facts: Facts) -> Supply | str | None:
    """The supply; None where no loader is waited for; a reason where it was not seen."""
    stage, whole = facts.stages.get("data_wait"), step_ms(facts)
    if stage is None or facts.steps is None or whole <= 0:
        return None
    wait_ms = max(0.0, stage.mean_ms - stage.parts_ms.get("iter", 0.0))
    workers = facts.workers
    if workers is None:
        return facts.not_measured.get("workers", "the DataLoader's workers were not observed")
    parts = workers.parts_ms
    if parts <= 0 or workers.batch_ms <= 0:
        return "what the DataLoader's workers did per batch was not measured"
    scale = workers.batch_ms / parts  # parts are medians, the batch is a mean
    return Supply(
        step_ms=whole,
        wait_ms=wait_ms,
        batches=facts.steps.batches or 1.0,
        processes=workers.processes,
        batch_ms=workers.batch_ms,
        load_ms=workers.load_ms * scale,
        preprocess_ms=workers.preprocess_ms * scale,
        collate_ms=workers.collate_ms * scale,
        loader=facts.settings.training_loader,
    )


def waits(facts: Facts, threshold: float) -> Supply | str | None:
    """The supply, where the loop waits beyond `threshold` for batches that are made too slowly."""
    stage = facts.stages.get("data_wait")
    if stage is None or stage.share < threshold:
        return None
    supply = supply_of(facts)
    if not isinstance(supply, Supply):
        return supply
    if supply.wait_share < threshold:
        return None
    if supply.processes and supply.arrival_ms(supply.batch_ms, supply.processes) < KEEPS_UP * supply.step_ms:
        return (
            f"the loop waits {percent(supply.wait_share)} of the step although {supply.processes} workers could "
            f"deliver every {ms(supply.arrival_ms(supply.batch_ms, supply.processes))}: making batches is not "
            "what holds it back; starting the workers every epoch, or handing batches over, may be"
        )
    return supply


def gain_of_shorter_batches(facts: Facts, supply: Supply, low_ms: float, high_ms: float) -> Gain | None:
    """What the step gains where a batch takes so much less, at the least and at the most; None: not worth a finding.

    Where workers wait for cores the training thread does, too: it is faster once they compute less. On a device it is
    the device that sets the pace of the rest of the step.
    """
    crowded = 0.0 if facts.machine.asynchronous else supply.delay_share
    fewer = (low_ms / max(supply.own_ms, 1e-9), high_ms / max(supply.own_ms, 1e-9))
    relief_low, relief_high = (
        min(MOST_RELIEF, factor * crowded * min(1.0, share)) for factor, share in zip(RELIEF, fewer, strict=True)
    )
    saves_high = supply.step_ms - supply.step_without(high_ms, relief_high)
    if not worth(facts, saves_high):
        return None
    return Gain.of(supply.step_ms, supply.step_ms - supply.step_without(low_ms, relief_low), saves_high)


def hottest(facts: Facts) -> LineTime | None:
    """The user's line that takes most of a batch."""
    lines = facts.workers.lines if facts.workers else ()
    return max(lines, key=lambda line: line.ms_per_step, default=None)


def line_sentence(line: LineTime | None, facts: Facts) -> str:
    """Names the hottest line; "" where none is known."""
    if line is None:
        return ""
    source = f" `{line.source.strip()}`" if line.source else ""
    leaf = f", in {line.leaf}" if line.leaf else ""
    where = place(line.site, facts)
    return f" The costliest line is {where}{source}, with {ms(line.ms_per_step)} of a batch{leaf}."


def caveat(facts: Facts) -> str:
    """What must be said where the device runs behind the host."""
    if not host_times(facts):
        return ""
    return (
        " These are host times: while the loop waited the device may still have worked off its queue, so "
        "that the gain can be smaller."
    )


def severity(facts: Facts, supply: Supply, gain: Gain) -> Severity:
    """By the share that the fix recovers; a wait that a device may have used is never called critical."""
    recovered_ms = supply.step_ms - (gain.step_ms_low + gain.step_ms_high) / 2
    level = severity_of(recovered_ms / supply.step_ms)
    uncertain = host_times(facts) and supply.processes == 0
    return Severity.WARNING if uncertain and level is Severity.CRITICAL else level


def maker(supply: Supply) -> str:
    """Who makes the batches, as the subject of a sentence."""
    if supply.processes == 0:
        return "the training thread itself (num_workers=0)"
    return "1 worker" if supply.processes == 1 else f"{supply.processes} workers"
