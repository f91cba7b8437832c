"""host/python-line."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Outcome, Threshold
from profiler.rules.host.line_rule import LineRule


class PythonLine(LineRule):
    """A line of Python on the training thread costs as much as a stage of the step.

    ## Why it is slow
    What runs between the stages runs instead of them: the next batch, forward and backward can't begin
    before the line is done.

    ## Evidence
    The sampler found the training thread at this line, or in what it calls, for at least `threshold` of the
    step. In `other` any line of the user's counts that no rule of its own speaks of (`host/logging`,
    `host/metrics`, …), and the lines of one function count together where none reaches the threshold alone.
    In `forward` and `optimizer` only lines count that are told from the model's arithmetic: sleeping, the
    network. A line under which whole steps run (`trainer.train()`) is not blamed for what a package's loop
    does between the stages. It abstains where the sampler saw fewer than `samples` of it, and for `other` when
    no module's forward was seen, for then the model's own arithmetic lies there.

    ## Fix
    By what the line does: every 50th step instead of each, after the loop, for the whole batch at once, in place, or
    in a worker.

    ## Gain
    The line's milliseconds, give or take the sampling error, and of that at least what
    its kind of fix leaves: 95 % for work done every 50th step, 50 % for a batch made elsewhere, 70 % where
    the kind is not known. At most 25 % more: what comes after the line finds warmer caches.

    ## Reference
    PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization" and "Disable debugging
    APIs".
    """

    id = "host/python-line"
    evidence = "training"
    explained_by = (
        "sync/item",
        "sync/copy-to-host",
        "sync/data-dependent-shape",
        "sync/explicit-synchronize",
        "sync/print-tensor",
        "sync/empty-cache",
    )
    same_line = True
    threshold = Threshold(0.05, "share of the step spent at one line")
    samples = Threshold(8, "samples of the line below which it is not named")

    def check(self, facts: Facts) -> Outcome:
        """Name the lines that cost, or say why none can be named."""
        said = super().check(facts)
        other = facts.stages.get("other")
        if said is not None or other is None or other.share < self.threshold.value:
            return said
        if "forward" not in facts.stages:
            return self.abstain("no module's forward was seen, so the model's own arithmetic lies in `other`")
        if not other.lines:
            return self.abstain(facts.not_measured.get("lines", "no line was sampled in `other`"))
        return None
