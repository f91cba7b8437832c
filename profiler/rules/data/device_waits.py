"""data/device-waits."""

from __future__ import annotations

import math

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold, severity_of
from profiler.rules.device import DeviceRule, PerStep
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent

REACHED = 0.67  # at least this share of the idle time: handing batches over costs something too
HEADROOM = 0.8  # of the workers' capacity that may be planned with
MOST_WORKERS = 16
OPERATORS_SHARE = 0.25  # of the wait in tensor operators: it is computing, not storage alone


class DeviceWaits(DeviceRule):
    """The device stands idle because the loop waits for its batch, and what the workers did was not recorded.

    ## Why it is slow
    The loop asks for the next batch when the step before it has been launched. Where the batch is not ready, nothing
    is launched, the device works off its queue and then has nothing to do.

    ## Evidence
    Idle time of the device in gaps in which the training thread stood in the DataLoader: at least `threshold` of the
    step, by the device's own clock. Who makes the batches is read from the iterator's name, and whether the training
    thread computed or waited while it made them from the tensor operators that it ran there. In a run where batches
    were measured in the process that makes them, the rules that know more (`data/too-few-workers`,
    `data/slow-storage` and the rest) speak instead, and this one is silent. It abstains where events were taken out
    of the recording.

    ## Fix
    Workers where there are none, as many as make a batch in the time of the rest of the step; more of them, or deeper
    prefetching, where they can't keep up. What holds the workers up (storage, decoding, collation) a trace does not
    show: `prof attach` does.

    ## Gain
    From 67 % of that idle time to all of it.

    ## Reference
    torch.utils.data, "Single- and Multi-process Data Loading".
    """

    id = "data/device-waits"
    evidence = "trace"
    bottleneck = Bottleneck.DATA_LOADING
    threshold = Threshold(0.05, "share of the step in which the device is idle for want of a batch")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge the idle time that falls into the wait for data."""
        if facts.workers is not None:
            return None
        if step.idle_ms is None:
            return self.abstain("events were taken out of the recording, so that idle time means nothing")
        lost = step.idle_by("data_wait")
        wait = facts.stages.get("data_wait")
        if wait is None or lost < self.threshold.value * step.step_ms or not worth(facts, lost):
            return None
        computing = facts.trace.loading_operators if facts.trace else None
        made_by = facts.trace.loaded_by if facts.trace else None
        gain = Gain.of(step.step_ms, REACHED * lost, lost)
        return self.finding(
            title=(
                f"the device is idle for {ms(lost)} ({percent(lost / step.step_ms)}) of each {ms(step.step_ms)} step "
                "because its batch is not there"
            ),
            why=f"The loop waits {ms(wait.mean_ms)} a step for batches" + _made(made_by, computing),
            evidence={"idle_ms": lost, "data_wait_ms": wait.mean_ms, "step_ms": step.step_ms},
            fix=_fix(made_by, wait.mean_ms, step.step_ms - wait.mean_ms),
            gain=gain,
            step_ms=step.step_ms,
            severity=severity_of(lost / step.step_ms),
            bottleneck=_word(made_by, computing),
        )


def _word(made_by: str | None, computing: float | None) -> Bottleneck:
    if made_by == "training thread" and computing is not None and computing >= OPERATORS_SHARE:
        return Bottleneck.DATA_PREPROCESSING
    return Bottleneck.DATA_LOADING


def _made(made_by: str | None, computing: float | None) -> str:
    if made_by == "workers":
        return ", which its workers don't make fast enough; what holds them up is not in the recording."
    if made_by != "training thread":
        return "; who makes them is not in the recording."
    operators = f": {percent(computing)} of that time is tensor operators (transforms)" if computing else ""
    return f", and makes them itself (num_workers=0){operators}. Nothing is launched meanwhile."


def _fix(made_by: str | None, wait_ms: float, rest_ms: float) -> Fix:
    if made_by == "workers":
        return Fix(
            "Give the loader more workers or a longer lead, and measure what they do.",
            "DataLoader(..., num_workers=…, prefetch_factor=4, persistent_workers=True)  # more than there are\n"
            "# prof attach train.py  # tells storage, transforms and collation apart, by line",
        )
    workers = min(MOST_WORKERS, max(1, math.ceil(wait_ms / (HEADROOM * rest_ms)))) if rest_ms > 0 else MOST_WORKERS
    return Fix(
        f"Let {workers} worker {'process' if workers == 1 else 'processes'} make the batches.",
        f"DataLoader(..., num_workers={workers}, persistent_workers=True, pin_memory=True)\n"
        "# transformers: TrainingArguments(dataloader_num_workers="
        f"{workers}, dataloader_persistent_workers=True)",
    )
