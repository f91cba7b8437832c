"""data/slow-collate."""

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
from profiler.rules.phrases import ms, percent


class SlowCollate(Rule):
    """The loop waits for items to be put together into batches.

    ## Why it is slow
    `collate_fn` runs once a batch over all its items in Python: per-item conversions, padding in loops and
    lists of numbers turned into tensors cost more than making the items.

    ## Evidence
    `data_wait` is above `threshold` of the step, and `collate_fn` is the largest part of a batch's time and
    at least `collate_share` of it. The hottest of the user's lines is named where it takes more than the items
    do, and so can only be in `collate_fn`. It is folded under `data/too-few-workers` while idle cores can take the
    work, and abstains when the workers were not observed.

    ## Fix
    Convert items to tensors or arrays in `__getitem__`, allocate the batch once, and fill it in whole rows.

    ## Gain
    60 % to 95 % of the collate time: one allocation and one copy per item remain. The step follows as `step
    - batches x saved` where the training thread loads, else as `max(step - data_wait, batches x (batch_ms -
    saved) / n)`.
    On a CPU whose cores are short the rest of the step is taken to wait for a core, too: for 0.8 to 2 times the
    share of it that the workers wait.

    ## Reference
    torch.utils.data, "Working with collate_fn".
    """

    id = "data/slow-collate"
    evidence = "training"
    bottleneck = Bottleneck.DATA_PREPROCESSING
    explained_by = ("data/too-few-workers",)
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for data")
    collate_share = Threshold(0.4, "share of a batch's time spent in collate_fn")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether collating holds the loop back."""
        supply = waits(facts, self.threshold.value)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        if supply.dominant != "collate" or supply.collate_ms < self.collate_share.value * supply.batch_ms:
            return None
        gain = gain_of_shorter_batches(facts, supply, 0.60 * supply.collate_ms, 0.95 * supply.collate_ms)
        if gain is None:
            return None
        line = _line(facts, supply)
        return self.finding(
            title=(
                f"{percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for batches that take "
                f"{ms(supply.collate_ms)} to collate"
            ),
            why=(
                f"Batches are made by {maker(supply)}, and collate_fn takes "
                f"{percent(supply.collate_ms / supply.batch_ms)} "
                f"of the {ms(supply.batch_ms)} that each takes; making the items takes "
                f"{ms(supply.preprocess_ms + supply.load_ms)}." + line_sentence(line, facts) + caveat(facts)
            ),
            evidence={
                "data_wait_share": supply.wait_share,
                "batch_ms": supply.batch_ms,
                "collate_ms": supply.collate_ms,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
            },
            fix=Fix.at(
                line.site if line else supply.site, "Allocate the batch once and copy whole items into it.", _CODE
            ),
            gain=gain,
            step_ms=supply.step_ms,
            severity=severity(facts, supply, gain),
        )


def _line(facts: Facts, supply: Supply) -> LineTime | None:
    """The hottest line, where it can only be in collate_fn: it takes longer than all that is not."""
    line = hottest(facts)
    return line if line is not None and line.ms_per_step > supply.preprocess_ms + supply.load_ms else None


_CODE = """\
def collate(items):  # items are (tensor of length n, label)
    tensors, labels = zip(*items)
    batch = tensors[0].new_zeros(len(tensors), max(len(t) for t in tensors))
    for row, tensor in zip(batch, tensors):
        row[: len(tensor)] = tensor  # a whole row at a time, never number by number
    return batch, torch.as_tensor(labels)"""
