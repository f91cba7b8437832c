"""data/many-small-files."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.data.library_lines import opening, total_ms
from profiler.rules.data.supply import (
    Supply,
    caveat,
    gain_of_shorter_batches,
    line_sentence,
    maker,
    severity,
    waits,
)
from profiler.rules.phrases import ms, number, percent, size

LEAST = 0.6  # of the time to open and read them that goes: the bytes are still read
OUR_READS = 4  # calls of read(2) that looking at a batch costs itself


class ManySmallFiles(Rule):
    """The loop waits for many small files to be opened and read.

    ## Why it is slow
    To find, open, ask about, read and close a file costs the same however small it is: tens of microseconds on a
    local disk, milliseconds across a network. A batch of small files pays that for each of them.

    ## Evidence
    `data_wait` is above `threshold` of the step; the sampler found lines that open or read files for at least
    `open_share` of a batch, in at least `samples` samples; a batch makes at least `reads` calls of read(2), and
    they bring less than `read_kib` KiB each. It is silent where few large reads bring the bytes
    (`data/slow-storage`), and abstains where the kernel hides what was read or the workers were not observed.

    ## Fix
    Pack the items into one file that is mapped, or into shards that are read from front to back.

    ## Gain
    60 % to all of these lines' time in a batch. The step follows as `step - batches x saved` where the training
    thread loads, else as `max(step - data_wait, batches x (batch_ms - saved) / n)`.
    On a CPU whose cores are short the rest of the step is taken to wait for a core, too: for 0.8 to 2 times the
    share of it that the workers wait.

    ## Reference
    numpy.lib.format.open_memmap; WebDataset documentation, "sharding".
    """

    id = "data/many-small-files"
    evidence = "training"
    bottleneck = Bottleneck.DATA_LOADING
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for data")
    open_share = Threshold(0.4, "share of a batch's time at lines that open or read files")
    samples = Threshold(8, "samples of such lines below which nothing is said")
    reads = Threshold(32, "calls of read(2) for a batch from which they are many")
    read_kib = Threshold(64, "KiB that a read brings, below which it is small")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether opening files holds the loop back."""
        supply, workers = waits(facts, self.threshold.value), facts.workers
        if not isinstance(supply, Supply) or workers is None:
            return self.abstain(supply) if isinstance(supply, str) else None
        lines = opening(workers.lines)
        part_ms = min(total_ms(lines), supply.batch_ms)
        if part_ms < self.open_share.value * supply.own_ms:
            return None
        if not workers.read_calls or not workers.read_chars:
            return self.abstain("the kernel does not say how many reads a batch makes")
        reads = workers.read_calls - OUR_READS
        if reads < self.reads.value or workers.read_chars >= self.read_kib.value * 1024 * reads:
            return None
        if sum(line.samples for line in lines) < self.samples.value:
            return self.abstain("too few samples of the lines that open files were taken")
        gain = gain_of_shorter_batches(facts, supply, LEAST * part_ms, part_ms)
        if gain is None:
            return None
        return self.finding(
            title=(
                f"{percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for batches that take "
                f"{number(reads)} small reads, {size(workers.read_chars / reads)} each"
            ),
            why=(
                f"Opening and reading files takes {ms(part_ms)} of the {ms(supply.batch_ms)} that a batch takes. "
                f"Batches are made by {maker(supply)}." + line_sentence(lines[0], facts) + caveat(facts)
            ),
            evidence={
                "data_wait_share": supply.wait_share,
                "open_ms": part_ms,
                "reads": reads,
                "read_bytes_each": workers.read_chars / reads,
                "batch_ms": supply.batch_ms,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
            },
            fix=Fix.at(lines[0].site, "Pack the items into one file, and map it.", _PACK),
            gain=gain,
            step_ms=supply.step_ms,
            severity=severity(facts, supply, gain),
        )


_PACK = """\
# once, before training
items = [np.fromfile(path, np.uint8) for path in paths]
np.save("starts.npy", np.cumsum([0, *map(len, items)]))
np.concatenate(items).tofile("items.bin")

# in the data set
self.starts = np.load("starts.npy")  # in __init__
self.bytes = np.memmap("items.bin", np.uint8, "r")
item = self.bytes[self.starts[index] : self.starts[index + 1]]  # in __getitem__; as the file's bytes were"""
