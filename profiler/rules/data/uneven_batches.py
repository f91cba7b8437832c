"""data/uneven-batches."""

from __future__ import annotations

import math

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.data.supply import KEEPS_UP, Supply, caveat, maker, supply_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import counted, ms, percent

ENOUGH = 100  # batches from which a 95th percentile is more than one or two of them
MOST_PREFETCH = 16  # batches a worker may keep: they all lie in memory
REACHED = 0.4  # at least this share of the saving: slow batches may follow one another


class UnevenBatches(Rule):
    """A few batches take so long to make that the loop runs out of prepared ones.

    ## Why it is slow
    Batches are delivered in order. While one worker makes a slow one, the loop uses up those that were
    prepared ahead, `num_workers x prefetch_factor` of them, and then waits, although the workers keep up on
    average.

    ## Evidence
    `data_wait` without the start of the workers is above `threshold` of the step, batches would arrive
    within 70 % of the step on average, and 1 in 20 takes at least `uneven` times the mean and longer than
    the loop needs to use up what was prepared ahead. It abstains when the workers or the DataLoader's
    construction were not observed, and over fewer than 100 batches.

    ## Fix
    A larger `prefetch_factor`, so that more batches are ready when a slow one comes. Or make the slow ones
    cheaper: group items of like length, or limit the largest.

    ## Gain
    With enough batches ahead the step is bounded by `step - data_wait` and by `batches x batch_ms / n`. 40 %
    to all of that saving is promised, an estimate: slow batches may come several in a row.

    ## Reference
    torch.utils.data, DataLoader, "prefetch_factor".
    """

    id = "data/uneven-batches"
    evidence = "training"
    arguments = {"transformers": "TrainingArguments(dataloader_prefetch_factor=8)"}
    bottleneck = Bottleneck.DATA_LOADING
    explained_by = ("data/workers-restarted", "data/python-objects", "data/slow-sampler")
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for batches, without the start of the workers")
    uneven = Threshold(2.0, "95th percentile of a batch's time over its mean")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether slow batches outlast those prepared ahead."""
        stage, workers = facts.stages.get("data_wait"), facts.workers
        if stage is None or stage.share < self.threshold.value:
            return None
        supply = supply_of(facts)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        if workers is None or supply.processes == 0 or supply.wait_share < self.threshold.value:
            return None
        if supply.arrival_ms(supply.batch_ms, supply.processes) >= KEEPS_UP * supply.step_ms:
            return None
        slow_ms = workers.batch_p95_ms
        if slow_ms < self.uneven.value * supply.batch_ms:
            return None
        if workers.batches < ENOUGH:
            return self.abstain(f"{workers.batches} batches are too few to tell slow ones from chance")
        if supply.loader is None or supply.loader.prefetch_factor is None:
            return self.abstain("how many batches are prepared ahead was not observed")
        ahead = supply.processes * supply.loader.prefetch_factor
        lasts_ms = ahead * supply.work_ms / supply.batches
        if slow_ms <= lasts_ms:
            return None
        saves = supply.step_ms - supply.step_with(supply.batch_ms, supply.processes)
        if not worth(facts, saves):
            return None
        factor = _factor(supply, slow_ms)
        return self.finding(
            title=(
                f"{percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for slow batches: 1 in 20 takes "
                f"{ms(slow_ms)} or more, the mean is {ms(supply.batch_ms)}"
            ),
            why=(
                f"On average {maker(supply)} could deliver every "
                f"{ms(supply.arrival_ms(supply.batch_ms, supply.processes))}. But batches come in order, and the "
                f"{counted(ahead, 'batch', 'batches')} prepared ahead last the loop {ms(lasts_ms)}, less than a slow "
                "one takes." + caveat(facts)
            ),
            evidence={
                "data_wait_share": supply.wait_share,
                "batch_ms": supply.batch_ms,
                "batch_p95_ms": slow_ms,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
                "prefetch_factor": float(supply.loader.prefetch_factor),
            },
            fix=Fix.at(supply.site, *_advice(supply, factor)),
            gain=Gain.of(supply.step_ms, REACHED * saves, saves),
            step_ms=supply.step_ms,
        )


def _factor(supply: Supply, slow_ms: float) -> int | None:
    """As many batches ahead of each worker as outlast twice a slow one; None where that is no more than it has."""
    per_worker_ms = supply.processes * supply.work_ms / supply.batches
    wanted = math.ceil(2 * slow_ms / per_worker_ms) if per_worker_ms > 0 else MOST_PREFETCH
    had = supply.loader.prefetch_factor or 0 if supply.loader else 0
    factor = min(wanted, MOST_PREFETCH)
    return factor if factor > had else None


def _advice(supply: Supply, factor: int | None) -> tuple[str, str]:
    if factor is None:
        return "Group items of like size, so that batches cost alike.", _ALIKE
    return (
        f"Let each worker prepare {factor} batches ahead, or make batches that cost alike.",
        f"DataLoader(..., num_workers={supply.processes}, prefetch_factor={factor})  # the other arguments stay",
    )


_ALIKE = """\
order = sorted(range(len(dataset)), key=size_of)  # size_of(index): the item's length
batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
random.shuffle(batches)
loader = DataLoader(dataset, batch_sampler=batches)  # the arguments that concern workers stay"""
