"""straggler/one-rank-work."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.phrases import ms
from profiler.rules.straggler.late import Late, late

_SPANS = {
    "checkpoint": "saves its checkpoints",
    "evaluation": "evaluates",
    "compile": "compiles",
}


class OneRankWork(Rule):
    """One rank saves or evaluates while the others wait for it.

    ## Why it is slow
    What rank 0 does for all (a checkpoint, an evaluation) is paid by all: the others stand in a barrier, or in the
    next step's first collective, until it is back.

    ## Evidence
    To one rank most of the waiting is due, the others wait for it for at least `threshold` of the step on average,
    and what it does longer than they is outside of steps: between them lie spans that only it has. Abstains where
    ranks or their clocks could not be compared.

    ## Fix
    Save from all ranks at once, or in the background; evaluate on all ranks, a part each; or do it less often.

    ## Gain
    What the others wait for it, averaged over all steps; 60 % to 100 % of it.

    ## Reference
    torch.distributed.checkpoint, `async_save`.
    """

    id = "straggler/one-rank-work"
    evidence = "training"
    bottleneck = Bottleneck.STRAGGLER
    threshold = Threshold(0.05, "share of the step that the other ranks wait")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether a rank works for all while all wait."""
        found = late(facts, "gap", threshold=self.threshold.value)
        if not isinstance(found, Late):
            return self.abstain(found) if found else None
        rank = found.rank
        does = _SPANS.get(rank.span or "", "is busy outside of its steps")
        evaluates = rank.span == "evaluation"
        return self.finding(
            title=(
                f"rank {rank.rank} {does} while the others wait: {ms(rank.late_ms)} of each {ms(found.step_ms)} step, "
                "on average"
            ),
            why=(
                f"Outside of its steps it is busy for {ms(found.cause.own_ms)} a step on average, the others for "
                f"{ms(found.cause.others_ms)}. {found.steadiness}"
            ),
            evidence=found.evidence,
            fix=Fix.at(
                rank.span_site,
                "Evaluate on all ranks, each a part of the data."
                if evaluates
                else "Save from all ranks at once and in the background, or less often.",
                _EVALUATE if evaluates else _SAVE,
            ),
            gain=found.gain,
            step_ms=found.step_ms,
        )


_SAVE = """\
import torch.distributed.checkpoint as dcp

saving = dcp.async_save({"model": model, "optimizer": optimizer}, checkpoint_id=f"step-{step}")
...  # train on; before the next one:
saving.result()"""
_EVALUATE = """\
sampler = DistributedSampler(validation, shuffle=False)
loss = evaluate(model, DataLoader(validation, batch_size=batch_size, sampler=sampler))
dist.all_reduce(loss, op=dist.ReduceOp.AVG)"""
