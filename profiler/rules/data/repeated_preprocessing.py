"""data/repeated-preprocessing."""

from __future__ import annotations

from profiler.analysis.facts import Facts
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
from profiler.rules.phrases import ms, number, percent, size

LEAST = 0.8  # of the items' work that goes: the stored items are still read
HELD = 0.3  # of the memory that stored items may take


class RepeatedPreprocessing(Rule):
    """Items are computed anew in every epoch, and come out the same.

    ## Why it is slow
    What depends on nothing but the item gives the same values each time: every epoch after the first pays for
    what the first one knew.

    ## Evidence
    The loop waits for data above `threshold` of the step, computing in the data set's items is the largest part
    of a batch and at least `preprocess_share` of it, and the first items of the data set had the same checksum
    in every epoch in which they were seen: all of at least `pairs` pairs. It abstains where the run saw no item
    twice, and is silent where any pair differs, as it does where items are augmented at random. It is folded
    under `data/too-few-workers` while idle cores can take the work.

    ## Fix
    Compute the items once: into tensors in memory where they take less than 30 % of it, else into one file that
    is mapped. Augment after that, on whole batches.

    ## Gain
    80 % to all of the time that the items take in a batch. The step follows as `step - batches x saved` where
    the training thread loads, else as `max(step - data_wait, batches x (batch_ms - saved) / n)`.
    On a CPU whose cores are short the rest of the step is taken to wait for a core, too: for 0.8 to 2 times the
    share of it that the workers wait.

    ## Reference
    torch.utils.data, TensorDataset; numpy.lib.format.open_memmap.
    """

    id = "data/repeated-preprocessing"
    evidence = "training"
    bottleneck = Bottleneck.DATA_PREPROCESSING
    explained_by = ("data/too-few-workers",)
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for data")
    preprocess_share = Threshold(0.4, "share of a batch's own time spent computing in the data set's items")
    pairs = Threshold(8, "pairs of one item in two epochs that must be compared")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether items that don't change are computed again and again."""
        supply = waits(facts, self.threshold.value)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        if supply.dominant != "preprocess" or supply.preprocess_ms < self.preprocess_share.value * supply.own_ms:
            return None
        items = facts.workers.item_facts if facts.workers else None
        if items is None or items.compared < self.pairs.value:
            return self.abstain("no item, or too few of them, were seen in two epochs, so they can't be compared")
        if items.same < items.compared:
            return None
        gain = gain_of_shorter_batches(facts, supply, LEAST * supply.preprocess_ms, supply.preprocess_ms)
        if gain is None:
            return None
        length = supply.loader.length if supply.loader else None
        whole = items.bytes * length if length else None
        fits = whole is not None and whole <= HELD * facts.machine.memory_bytes
        stored = f" All {number(length)} of them take {size(whole)}." if whole is not None and length else ""
        return self.finding(
            title=(
                f"items that never change are computed in every epoch: {ms(supply.preprocess_ms)} of CPU a batch, "
                f"and {percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for it"
            ),
            why=(
                f"All of {items.compared} items that were compared with themselves in another epoch had the same "
                f"values. Batches are made by {maker(supply)}, and an item has {size(items.bytes)}.{stored}"
                + line_sentence(hottest(facts), facts)
                + caveat(facts)
            ),
            evidence={
                "data_wait_share": supply.wait_share,
                "items_compared": float(items.compared),
                "items_same": float(items.same),
                "item_bytes": items.bytes,
                "preprocess_ms": supply.preprocess_ms,
                "batch_ms": supply.batch_ms,
                "step_ms": supply.step_ms,
            },
            fix=Fix.at(
                supply.site,
                "Compute each item once, before the first epoch, and keep it in memory."
                if fits
                else "Compute each item once, into a file that is mapped.",
                _IN_MEMORY if fits else _ON_DISK,
            ),
            gain=gain,
            step_ms=supply.step_ms,
            severity=severity(facts, supply, gain),
        )


_IN_MEMORY = """\
items = [dataset[index] for index in range(len(dataset))]  # once; by a DataLoader with workers where it is long
inputs, targets = (torch.as_tensor(np.stack(part)) for part in zip(*items))
loader = DataLoader(TensorDataset(inputs, targets), batch_size=..., shuffle=True)  # needs no workers"""
_ON_DISK = """\
# once, before training
first, _ = dataset[0]
kept = np.lib.format.open_memmap("items.npy", "w+", dtype=np.asarray(first).dtype, shape=(len(dataset), *first.shape))
for index in range(len(dataset)):
    kept[index] = dataset[index][0]

# in the data set
self.kept = np.load("items.npy", mmap_mode="r")  # in __init__
item = torch.from_numpy(self.kept[index].copy())  # in __getitem__"""
