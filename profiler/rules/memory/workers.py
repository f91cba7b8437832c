"""memory/workers."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.phrases import counted, percent, size


class Workers(Rule):
    """The DataLoader's workers hold a large part of the machine's memory.

    ## Why it is slow
    Each worker has a dataset of its own. A forked one begins with the parent's pages, but Python counts
    references in each object that it touches, so that page after page of a list becomes a copy; a spawned
    one has its copy from the start. Memory that they fill is gone from the cache of files.

    ## Evidence
    The resident memory of the process's children, summed, reached `threshold` of the machine's. Pages that
    forked workers share, and files that are mapped, count for each of them there, so it is a note.

    ## Fix
    Keep what the dataset holds in arrays or tensors, which have one reference each, or in a file that is
    mapped; and start no more workers than are busy.

    ## Gain
    In bytes: at most what all workers but one hold. Steps themselves may not get shorter.

    ## Reference
    torch.utils.data, "Multi-process data loading": the warning on copy-on-write and reference counts.
    """

    id = "memory/workers"
    bottleneck = Bottleneck.MEMORY
    explained_by = ("memory/worker-copies",)
    per_step = False
    needs_device_times = False
    threshold = Threshold(0.5, "share of the machine's memory from which it is told")

    def check(self, facts: Facts) -> Outcome:
        """Judge what the workers hold."""
        loader, seen = facts.settings.training_loader, facts.workers
        processes = seen.processes if seen else loader.num_workers if loader else 0
        if facts.steps is None or processes <= 0:
            return None
        held, whole = facts.memory.workers_peak_rss_bytes, facts.machine.memory_bytes
        if held is None:
            return self.abstain(facts.not_measured.get("memory", "no reading of the workers' memory was taken"))
        if whole <= 0:
            return self.abstain("the size of the machine's memory is not known")
        if held < self.threshold.value * whole:
            return None
        spawned = loader is not None and loader.context in ("spawn", "forkserver")
        shared = (
            "They were not forked from the training process, so each has objects of its own; files that all of "
            "them map count for each."
            if spawned
            else "Pages that they share count for each of them in this sum: it is the most that they can hold."
        )
        return self.finding(
            title=(
                f"{counted(processes, 'worker')} {'holds' if processes == 1 else 'hold'} "
                f"{'' if spawned else 'up to '}{size(held)}, {percent(held / whole)} of the machine's {size(whole)}"
            ),
            why=f"That is {size(held / processes)} for each worker. {shared}",
            evidence={
                "workers_bytes": float(held),
                "workers_share": held / whole,
                "processes": float(processes),
                "bytes_per_worker": held / processes,
            },
            fix=Fix.at(
                loader.site if loader else None,
                "Keep what the dataset holds in an array instead of a list of Python objects.",
                _CODE,
            ),
            severity=Severity.INFO,
        )


_CODE = """\
# in the dataset's __init__
self.paths = np.array(paths)  # not: a list of str, of which each access copies a page
self.images = np.load("images.npy", mmap_mode="r")  # all workers read the same pages"""
