"""data/slow-storage."""

from __future__ import annotations

import math

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.data.supply import Supply, caveat, hottest, line_sentence, maker, severity, waits
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent, size

WORKERS_PER_CORE = 4  # waiting takes no core, but each worker takes memory
MOST_WORKERS = 16


class SlowStorage(Rule):
    """The loop waits for batches whose makers wait for storage.

    ## Why it is slow
    Whoever makes the batch is neither computing nor waiting for a core: it is blocked, in a read from a
    disk or a network, or on a lock. No faster transform helps against that.

    ## Evidence
    `data_wait` is above `threshold` of the step, and of the time to make a batch at least `blocked_share`
    was spent blocked: wall time less CPU time less the time spent runnable without a core. What comes out
    of the page cache is not blocked, so that a second epoch may be judged otherwise than the first. It
    abstains when the workers were not observed.

    ## Fix
    Where bytes arrive slower than `bandwidth_mb_s` the wait is latency, and waits can overlap: more workers
    than cores wait at the same time. Where they arrive faster the storage is at its limit: keep the files
    on a local disk or in memory, or make them smaller.

    ## Gain
    By workers: the step can't get shorter than the larger of `step - data_wait` and `batches x batch_ms /
    n`, nor than the batch's computing allows; 75 % to 100 % of that is promised. By faster storage: the
    blocked part of the batch goes, at least 80 % of it, and the step follows as `max(step - data_wait,
    batches x rest / n)`.

    ## Reference
    torch.utils.data, "Multi-process data loading"; proc(5), /proc/pid/schedstat and /proc/pid/io.
    """

    id = "data/slow-storage"
    evidence = "training"
    bottleneck = Bottleneck.DATA_LOADING
    explained_by = ("data/many-small-files",)
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for data")
    blocked_share = Threshold(0.5, "share of a batch's time spent blocked")
    bandwidth_mb_s = Threshold(100.0, "MB read per second of blocked time above which the storage is at its limit")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether batches wait for storage."""
        supply = waits(facts, self.threshold.value)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        if supply.load_ms < self.blocked_share.value * supply.batch_ms:
            return None
        read_bytes = facts.workers.read_bytes if facts.workers else None
        rate_mb_s = (read_bytes or 0.0) / 1e6 / (supply.load_ms / 1000)
        at_limit = rate_mb_s > self.bandwidth_mb_s.value
        workers = _workers_that_wait(supply, facts.machine.cores)
        if at_limit or workers <= supply.processes:
            low, high = supply.step_without(0.8 * supply.load_ms), supply.step_without(supply.load_ms)
            saves_low, saves_high = supply.step_ms - low, supply.step_ms - high
            fix = Fix.at(supply.site, "Read from a local disk or from memory, or store smaller files.", _COPY)
        else:
            computing_ms = supply.arrival_ms(supply.batch_ms - supply.load_ms, min(workers, facts.machine.cores))
            best = max(supply.step_with(supply.batch_ms, workers), computing_ms)
            saves_low, saves_high = 0.75 * (supply.step_ms - best), supply.step_ms - best
            fix = Fix.at(
                supply.site,
                f"Let {workers} workers wait at the same time, for waiting takes no core; "
                "or copy the data to a local disk.",
                f"DataLoader(..., num_workers={workers}, persistent_workers=True)  # the other arguments stay",
            )
        if not worth(facts, saves_high):
            return None
        gain = Gain.of(supply.step_ms, saves_low, saves_high)
        read = f" It reads {size(read_bytes)} a batch from storage, {rate_mb_s:.0f} MB/s." if read_bytes else ""
        return self.finding(
            title=(
                f"{percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for batches that "
                f"spend {ms(supply.load_ms)} of their {ms(supply.batch_ms)} blocked on storage or network"
            ),
            why=(
                f"Batches are made by {maker(supply)}, blocked for "
                f"{percent(supply.load_ms / supply.batch_ms)} of the "
                f"time: not computing, and not waiting for a core.{read}"
                + line_sentence(hottest(facts), facts)
                + caveat(facts)
            ),
            evidence={
                "data_wait_share": supply.wait_share,
                "batch_ms": supply.batch_ms,
                "blocked_ms": supply.load_ms,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
                **({"read_bytes": read_bytes, "read_mb_s": rate_mb_s} if read_bytes else {}),
            },
            fix=fix,
            gain=gain,
            step_ms=supply.step_ms,
            severity=severity(facts, supply, gain),
        )


_COPY = """\
import shutil
local = shutil.copytree(folder, "/tmp/dataset", dirs_exist_ok=True)  # once, before training
dataset = ...  # the same data set, made over `local`"""


def _workers_that_wait(supply: Supply, machine_cores: int) -> int:
    target_ms = max(supply.work_ms, supply.step_ms * 0.05)
    needed = math.ceil(supply.batches * supply.batch_ms / (0.9 * target_ms))
    return min(max(needed, supply.processes + 1, 2), WORKERS_PER_CORE * machine_cores, MOST_WORKERS)
