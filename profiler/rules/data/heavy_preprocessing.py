"""data/heavy-preprocessing."""

from __future__ import annotations

from profiler.analysis.facts import Facts, LineTime
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.data.supply import (
    Supply,
    caveat,
    gain_of_shorter_batches,
    hottest,
    line_sentence,
    maker,
    severity,
    waits,
)
from profiler.rules.phrases import ms, percent, place


class HeavyPreprocessing(Rule):
    """The loop waits for the CPU work of the data set's items.

    ## Why it is slow
    Decoding, augmenting and converting an item costs more CPU than the cores can give in the time of a
    step, so the loop waits, however many workers there are.

    ## Evidence
    `data_wait` is above `threshold` of the step, and of the time to make a batch the computing in the data
    set's items is the largest part and at least `preprocess_share`. The hottest of the user's lines is
    named where the sampler saw it. It is folded under `data/too-few-workers` while idle cores can take the
    work, and under the rules that know more of the work; it abstains when the workers were not observed.

    ## Fix
    At the hottest line: do what is the same in every epoch once and store its result; do the rest on fewer
    pixels or whole batches.

    ## Gain
    The hottest line's share of a batch, 70 % to 100 % of it (reading the stored result costs something);
    half to all of the preprocessing where no line is known. The step follows as `step - batches x saved`
    where the training thread loads, else as `max(step - data_wait, batches x (batch_ms - saved) / n)`.
    On a CPU whose cores are short the rest of the step is taken to wait for a core, too: for 0.8 to 2 times the
    share of it that the workers wait.

    ## Reference
    torch.utils.data, "Map-style datasets"; PyTorch performance tuning guide.
    """

    id = "data/heavy-preprocessing"
    evidence = "training"
    bottleneck = Bottleneck.DATA_PREPROCESSING
    explained_by = (
        "data/too-few-workers",
        "data/repeated-preprocessing",
        "data/slow-decode",
        "data/many-small-files",
        "data/worker-threads",
    )
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for data")
    preprocess_share = Threshold(0.4, "share of a batch's own time spent computing in the data set's items")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the items' CPU work holds the loop back."""
        supply = waits(facts, self.threshold.value)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        if supply.dominant != "preprocess" or supply.preprocess_ms < self.preprocess_share.value * supply.own_ms:
            return None
        line = hottest(facts)
        part_ms = min(line.ms_per_step, supply.preprocess_ms) if line else supply.preprocess_ms
        certain = 0.7 if line else 0.5
        gain = gain_of_shorter_batches(facts, supply, certain * part_ms, part_ms)
        if gain is None:
            return None
        idle = facts.machine.idle_cores
        busy = f" {idle:.1f} of {facts.machine.cores} cores stood idle." if idle is not None else ""
        return self.finding(
            title=(
                f"{percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for batches that take "
                f"{ms(supply.preprocess_ms)} of CPU to prepare"
            ),
            why=(
                f"Batches are made by {maker(supply)}, and "
                f"{percent(supply.preprocess_ms / supply.batch_ms)} of the "
                f"{ms(supply.batch_ms)} that each takes is computing in the data set's items.{busy}"
                + line_sentence(line, facts)
                + caveat(facts)
            ),
            evidence={
                "data_wait_share": supply.wait_share,
                "batch_ms": supply.batch_ms,
                "preprocess_ms": supply.preprocess_ms,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
                **({"line_ms": line.ms_per_step} if line else {}),
            },
            fix=_fix(line, supply, facts),
            gain=gain,
            step_ms=supply.step_ms,
            severity=severity(facts, supply, gain),
        )


def _fix(line: LineTime | None, supply: Supply, facts: Facts) -> Fix:
    if line is None:
        return Fix.at(supply.site, "Do what is the same in every epoch once, before training.", _STORE)
    what = line.leaf.rsplit(".", 1)[-1] if line.leaf else "this line"
    return Fix.at(
        line.site,
        f"Do what {what} does at {place(line.site, facts)} once and keep its result, or on fewer values.",
        _STORE,
    )


_STORE = """\
# once, before training: everything up to the first random transform
torch.save([prepare(item) for item in raw_items], "prepared.pt")

# in the data set: read the result, and only augment
def __init__(self):
    self.items = torch.load("prepared.pt", mmap=True)

def __getitem__(self, index):
    return augment(self.items[index])"""
