"""data/too-many-workers."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, percent, size


class TooManyWorkers(Rule):
    """More worker processes than cores take turns.

    ## Why it is slow
    Workers that compute can't run faster than the cores allow. Beyond that number each waits for a core,
    and so may the training; every one takes memory for itself and for the batches it keeps ready.

    ## Evidence
    There are more workers than cores, fewer than `idle_cores` stood idle while the steps ran, and a batch
    spent at least `delay_share` of its time runnable without a core, as the kernel counts it. Workers that
    wait for storage need no core, and are let be. It abstains when the idle cores were not measured.

    ## Fix
    `num_workers` no larger than the cores that the process may use, less one for the training.

    ## Gain
    None is promised: as many batches are made as before, with less memory and less switching. How much the
    training itself waited for a core is not known, so that this is a note, whatever else holds the step back.

    ## Reference
    torch.utils.data, "Multi-process data loading"; proc(5), /proc/pid/schedstat.
    """

    id = "data/too-many-workers"
    evidence = "training"
    arguments = {"transformers": "TrainingArguments(dataloader_num_workers=2)"}
    bottleneck = Bottleneck.DATA_PREPROCESSING
    explained_by = ("data/worker-threads",)
    needs_device_times = False
    delay_share = Threshold(0.25, "share of a batch's time spent runnable without a core")
    idle_cores = Threshold(0.5, "idle cores above which the workers are not too many")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the workers take turns on too few cores."""
        workers, cores = facts.workers, facts.machine.cores
        if workers is None or workers.processes <= cores:
            return None
        parts = workers.parts_ms
        if parts <= 0 or workers.run_delay_ms < self.delay_share.value * parts:
            return None
        idle = facts.machine.idle_cores
        if idle is None:
            return self.abstain("how many cores stood idle was not measured")
        delay_ms = workers.batch_ms * workers.run_delay_ms / parts
        batches = facts.steps.batches if facts.steps else 0.0
        if idle >= self.idle_cores.value or not worth(facts, batches * delay_ms / workers.processes):
            return None
        loader = facts.settings.training_loader
        fewer = max(1, cores - 1)
        held = facts.memory.workers_peak_rss_bytes
        memory = f" Together they held up to {size(held)} of memory." if held else ""
        return self.finding(
            title=(
                f"{workers.processes} workers share {cores} {'core' if cores == 1 else 'cores'}: a batch waits "
                f"{ms(delay_ms)} of its {ms(workers.batch_ms)} for one"
            ),
            why=(
                f"{percent(delay_ms / workers.batch_ms)} of a batch's time its worker was ready to run and had no "
                f"core, and {idle:.1f} cores stood idle. More workers than cores make no more batches.{memory}"
            ),
            evidence={
                "num_workers": float(workers.processes),
                "cores": float(cores),
                "idle_cores": idle,
                "run_delay_ms": delay_ms,
                "batch_ms": workers.batch_ms,
                "step_ms": step_ms(facts),
            },
            fix=Fix.at(
                loader.site if loader else None,
                f"Lower num_workers from {workers.processes} to {fewer}.",
                f"DataLoader(..., num_workers={fewer})  # the other arguments stay",
            ),
            severity=Severity.INFO,
        )
