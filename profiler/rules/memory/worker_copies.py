"""memory/worker-copies."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.phrases import counted, number, percent, size

WARN_SHARE = 0.2  # of the machine's memory


class WorkerCopies(Rule):
    """Forked workers copy the data set, page by page, as they read it.

    ## Why it is slow
    A forked worker begins with the parent's pages and pays nothing for them. But to look at a Python object is to
    count a reference in it, and a page that is written to becomes the worker's own: a list of strings or numbers is
    copied into every worker while the epoch goes on. Memory that looked shared fills up, and the file cache goes.

    ## Evidence
    The memory that the workers share with no other process grew between looks at each of them by at least
    `growth_mib` together. It abstains for workers that were not forked, and where the kernel does not say what is
    private or a worker made too few batches for two looks.

    ## Fix
    Hold what the data set knows in arrays or tensors, which are one object each: numbers as an array, text as bytes
    with offsets.

    ## Gain
    In bytes: what the workers' own pages grew by, which goes on until all of the data set was read.

    ## Reference
    torch.utils.data, "Multi-process data loading": the warning on copy-on-write and reference counts.
    """

    id = "memory/worker-copies"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    growth_mib = Threshold(64, "growth of the workers' private memory below which nothing is said, in MiB")

    def check(self, facts: Facts) -> Outcome:
        """Judge by how much the workers' own pages grew."""
        workers, loader = facts.workers, facts.settings.training_loader
        if facts.steps is None or workers is None or workers.processes == 0:
            return None
        if loader is not None and loader.context in ("spawn", "forkserver"):
            return None
        seen = workers.process_facts
        if seen is None or seen.private_growth_bytes is None or not seen.growth_batches:
            return self.abstain("the workers made too few batches for two looks at their memory")
        grew, whole = seen.private_growth_bytes, facts.machine.memory_bytes
        if grew < self.growth_mib.value * 2**20:
            return None
        each = grew / max(seen.processes, 1)
        share = grew / whole if whole else 0.0
        of_machine = f", {percent(share)} of the machine's {size(whole)}" if whole else ""
        return self.finding(
            title=(
                f"{counted(seen.processes, 'worker')} copied {size(grew)} of pages that they shared with the training, "
                f"in {number(seen.growth_batches)} batches"
            ),
            why=(
                f"The memory that a worker shares with nobody grew by {size(each)}{of_machine}. Reading Python objects "
                "writes their reference counts, and each page that is written to is copied."
            ),
            evidence={
                "private_growth_bytes": float(grew),
                "private_bytes": float(seen.private_bytes or 0),
                "batches": float(seen.growth_batches),
                "processes": float(seen.processes),
            },
            fix=Fix.at(
                loader.site if loader else None,
                "Hold what the data set knows in arrays instead of lists of Python objects.",
                _CODE,
            ),
            severity=Severity.WARNING if share >= WARN_SHARE else Severity.INFO,
        )


_CODE = """\
# in the data set's __init__
encoded = [text.encode() for text in texts]
self.bytes = np.frombuffer(b"".join(encoded), np.uint8)  # one object, not a list of str
self.ends = np.cumsum([len(text) for text in encoded])
self.labels = torch.tensor(labels)  # one object, not a list of int

# in __getitem__
start = self.ends[index - 1] if index else 0
text = self.bytes[start : self.ends[index]].tobytes().decode()"""
