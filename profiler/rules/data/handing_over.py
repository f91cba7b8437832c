"""data/handing-over."""

from __future__ import annotations

from profiler.analysis.facts import Facts, StageFacts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.data.supply import KEEPS_UP, Supply, maker, supply_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent

MEANWHILE = 0.3  # of the wait: beyond it, it is not the batches' way that takes the time
REACHED = 0.75  # at least this share of the saving: the training thread makes batches beside its own work


class HandingOver(Rule):
    """Worker processes make the loop wait longer than the batches would take it.

    ## Why it is slow
    A batch from a worker is put into shared memory, announced through a queue and mapped again, and each
    epoch's first batch waits for the workers to get going. For batches that are cheap to make, of data that
    is in memory already, this costs more than making them.

    ## Evidence
    The loop waits above `threshold` of the step for workers that could deliver in good time: their batches
    would arrive within 70 % of the step. That wait is at least `times` what it costs to make the step's
    batches, so that the training thread would be done with them sooner. It abstains when the workers were
    not observed and when batches are pinned for a device, since the training thread would pin them too.

    ## Fix
    `num_workers=0`. Where the data set holds tensors, index whole batches out of them: one operator for a
    batch instead of one `__getitem__` for each item.

    ## Gain
    The wait goes and the making of the batches comes: `wait - batches x batch_ms`, 75 % to 100 % of it, and
    at most the start of the workers besides. Measured with a TensorDataset, 2 workers, 2 cores, torch 2.13:
    96 % of it with batches of 32 items and 103 % with 128.

    ## Reference
    torch.utils.data, "Single- and Multi-process Data Loading".
    """

    id = "data/handing-over"
    evidence = "facts"
    arguments = {"transformers": "TrainingArguments(dataloader_num_workers=0)"}
    bottleneck = Bottleneck.DATA_LOADING
    explained_by = (
        "data/uneven-batches",
        "data/workers-restarted",
        "data/epoch-start",
        "data/python-objects",
        "data/slow-sampler",
    )
    threshold = Threshold(0.05, "share of the step spent waiting for batches, without the start of the workers")
    times = Threshold(2.0, "wait for a step's batches, over what it costs to make them")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the training thread would make the batches sooner."""
        stage = facts.stages.get("data_wait")
        if stage is None or stage.share < self.threshold.value:
            return None
        supply = supply_of(facts)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        if supply.processes == 0 or supply.wait_share < self.threshold.value:
            return None
        if supply.arrival_ms(supply.batch_ms, supply.processes) >= KEEPS_UP * supply.step_ms:
            return None
        making_ms = supply.batches * supply.batch_ms
        if supply.wait_ms < self.times.value * making_ms:
            return None
        if supply.loader is None:
            return self.abstain("the construction of the training's DataLoader was not observed")
        if supply.loader.pin_memory and facts.machine.asynchronous:
            return self.abstain("batches are pinned for the device, and what pinning takes was not measured")
        if supply.loader.context in ("spawn", "forkserver") and not supply.loader.persistent_workers:
            return self.abstain("starting spawned workers is part of the wait, and was not timed apart")
        if _worked_meanwhile(stage) > MEANWHILE:
            return self.abstain("the training thread itself works while it waits, e.g. in the loader's sampler")
        saves = supply.wait_ms - making_ms
        if not worth(facts, REACHED * saves):
            return None
        iter_ms = stage.parts_ms.get("iter", 0.0)
        in_memory = (
            supply.loader.dataset.endswith("TensorDataset")
            and supply.loader.shuffle is True
            and facts.run.ranks == 1
            and supply.loader.extra.get("collate_fn") == "default_collate"
        )
        return self.finding(
            title=(
                f"{percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for {maker(supply)}, though "
                f"batches take only {ms(supply.batch_ms)} to make"
            ),
            why=(
                f"The loop waits {ms(supply.wait_ms)} in each step for batches that cost {ms(making_ms)} to make "
                f"and that {maker(supply)} could deliver every "
                f"{ms(supply.arrival_ms(supply.batch_ms, supply.processes))}. What it waits for is not their "
                "making, but their way from another process, and the first ones of an epoch."
            ),
            evidence={
                "data_wait_share": supply.wait_share,
                "wait_ms": supply.wait_ms,
                "batch_ms": supply.batch_ms,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
            },
            fix=Fix.at(
                supply.site,
                "Index whole batches out of the tensors, without a DataLoader."
                if in_memory
                else "Let the training thread make these batches.",
                _SLICES if in_memory else _NO_WORKERS,
            ),
            gain=Gain.of(supply.step_ms, REACHED * saves, saves + iter_ms),
            step_ms=supply.step_ms,
        )


def _worked_meanwhile(stage: StageFacts) -> float:
    """Share of the wait that the sampler saw at other lines of the user's than the one that waits."""
    return sum(line.share_of_stage for line in stage.lines if stage.call is None or line.site.line != stage.call.line)


_NO_WORKERS = "DataLoader(..., num_workers=0)  # the other arguments stay"
_SLICES = """\
for chosen in torch.randperm(len(inputs)).split(batch_size):  # the tensors of the TensorDataset
    batch, targets = inputs[chosen], labels[chosen]"""
