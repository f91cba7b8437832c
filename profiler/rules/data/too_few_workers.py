"""data/too-few-workers."""

from __future__ import annotations

import math

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.data.supply import Supply, caveat, hottest, line_sentence, maker, severity, waits
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent

HANDOVER_MS = 0.7  # what the loop pays per batch to take it from a worker (measured, 2 cores, torch 2.13)
MOST_WORKERS = 16
REACHED = 0.65  # at least this share of the ideal saving: workers and the loop share caches and memory bandwidth


class TooFewWorkers(Rule):
    """The loop waits for batches that idle cores could have prepared.

    ## Why it is slow
    Making a batch takes longer than using it up, and too few processes make them: with `num_workers=0` the
    training thread does it between two steps, with a few workers they can't keep up. Meanwhile cores stand
    idle.

    ## Evidence
    `data_wait` is above `threshold` of the step, batches are computed rather than waited for (else see
    `data/slow-storage`), a batch takes at least `min_batch_ms` (below that handing it over from another
    process costs about as much as making it), and at least `idle_cores` stood idle while the steps ran. It
    abstains when the workers or the idle cores were not observed, and when the data set is held in memory
    as tensors, where slicing whole batches out beats any number of workers. It is silent when no core is
    idle or there are as many workers as cores (`data/heavy-preprocessing`).

    ## Fix
    `num_workers` on the DataLoader's line, with `persistent_workers=True` so that they live beyond an
    epoch. An iterable data set must split its stream among its workers.

    ## Gain
    With n workers a batch arrives every `batch_ms / n`, and the busy core-time of a step stays what it is:
    the step can't get shorter than the largest of `step - data_wait` (plus 0.7 ms a batch for handing over,
    measured), `batches x batch_ms / n` and `step x (cores - idle_cores) / cores`. The range runs from 65 %
    of that saving, for workers and loop share caches, to all of it.

    ## Reference
    torch.utils.data, "Single- and Multi-process Data Loading".
    """

    id = "data/too-few-workers"
    arguments = {"transformers": "TrainingArguments(dataloader_num_workers=4, dataloader_persistent_workers=True)"}
    evidence = "training"
    bottleneck = Bottleneck.DATA_PREPROCESSING
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for data")
    idle_cores = Threshold(0.25, "idle cores below which more workers would only take turns")
    min_batch_ms = Threshold(3.0, "time to make a batch below which a worker does not pay, in ms")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether idle cores could make the batches."""
        supply = waits(facts, self.threshold.value)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        if supply.dominant == "load" or supply.batch_ms < self.min_batch_ms.value:
            return None
        if supply.loader is not None and supply.loader.dataset.endswith("TensorDataset"):
            return self.abstain("the data set is held in memory: slicing batches out of it beats more workers")
        idle = facts.machine.idle_cores
        if idle is None:
            return self.abstain("how many cores stood idle was not measured, so more workers can't be promised to help")
        idle = min(max(idle, 0.0), float(facts.machine.cores))
        if idle < self.idle_cores.value or supply.processes >= facts.machine.cores:
            return None
        shared = supply.step_ms * (facts.machine.cores - idle) / facts.machine.cores
        workers = _workers_needed(supply, idle, shared)
        handover = HANDOVER_MS * supply.batches if supply.processes == 0 else 0.0
        best = max(supply.step_with(supply.batch_ms, workers), supply.work_ms + handover, shared)
        saves = supply.step_ms - best
        if not worth(facts, saves):
            return None
        gain = Gain.of(supply.step_ms, REACHED * saves, saves)
        return self.finding(
            title=(
                f"{percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for batches that take "
                f"{ms(supply.batch_ms)} to make, while {idle:.1f} of {facts.machine.cores} cores stood idle"
            ),
            why=(
                f"Batches are made by {maker(supply)}: each takes {ms(supply.batch_ms)}, of which "
                f"{ms(supply.batch_ms - supply.load_ms)} is computing, and the rest of the step only "
                f"{ms(supply.work_ms)}." + line_sentence(hottest(facts), facts) + caveat(facts)
            ),
            evidence={
                "data_wait_share": supply.wait_share,
                "batch_ms": supply.batch_ms,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
                "cores": float(facts.machine.cores),
                "idle_cores": idle,
            },
            fix=Fix.at(supply.site, _summary(supply, workers), _code(supply, workers)),
            gain=gain,
            step_ms=supply.step_ms,
            severity=severity(facts, supply, gain),
        )


def _workers_needed(supply: Supply, idle: float, shared_ms: float) -> int:
    """As many as keep the loop fed and idle cores can carry, the loop's own where it loads."""
    target_ms = max(supply.work_ms, shared_ms, supply.step_ms * 0.05)
    needed = math.ceil(supply.batches * supply.batch_ms / (0.9 * target_ms))
    carried = supply.processes + max(1, round(idle + (supply.processes == 0)))
    return min(max(needed, supply.processes + 1), carried, MOST_WORKERS)


def _summary(supply: Supply, workers: int) -> str:
    if supply.processes == 0:
        return f"Let {workers} worker {'process' if workers == 1 else 'processes'} make the batches."
    return f"Raise num_workers from {supply.processes} to {workers}."


def _code(supply: Supply, workers: int) -> str:
    code = f"DataLoader(..., num_workers={workers}, persistent_workers=True)  # the other arguments stay"
    if supply.loader is None or not supply.loader.iterable:
        return code
    return (
        code + "\n\n# in the iterable data set: each worker takes its part, or each yields all of it\n"
        "info = torch.utils.data.get_worker_info()\n"
        "part, parts = (info.id, info.num_workers) if info else (0, 1)\n"
        "for item in itertools.islice(source, part, None, parts):\n"
        "    yield item"
    )
