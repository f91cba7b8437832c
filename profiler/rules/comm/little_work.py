"""comm/little-work."""

from __future__ import annotations

import math

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.exposed import GRADIENTS, Exposed, evidence, gradients_exposed, reduced, sentence, wrapped_at
from profiler.rules.comm.link import link_of, predicted, sentence_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent


class LittleWork(Rule):
    """A step has too little work to pay for what its ranks exchange.

    ## Why it is slow
    Gradients and shards are as large as the model, however small the batch. What a step computes is all that their
    exchange can hide behind, and all that it is spread over.

    ## Evidence
    DistributedDataParallel reduces once a step, or parameters are fully sharded; the transfer that nothing hides is at
    least `threshold` of the step, and exchanging all gradients takes at least `of_backward` of the time that the
    backward pass computes, so that no arrangement of buckets could hide it (sharded: the transfer against the work of
    the step). How long the exchange takes is told by the latency and rate that the run's own messages show; where they
    show none, by the reducer's time from its first bucket to its last. Abstains where the reducer took no sample, or
    waiting for late ranks can't be told from transfer.

    ## Fix
    A larger batch per rank, or more micro-batches a step under `no_sync`: work grows, transfer does not.

    ## Gain
    With k times the batch the transfer per sample falls to 1 / k: from half of it (k = 2) to what k = 4 saves, per as
    many samples as now. The k at which transfer is a tenth of the step, `transfer x 0.9 / (0.1 x work)`, is said; and
    where the link's latency and rate are known, the k at which backward lasts as long as the exchange.

    ## Reference
    PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., VLDB 2020), section 3.2.
    """

    id = "comm/little-work"
    evidence = "training"
    bottleneck = Bottleneck.COMMUNICATION
    explained_by = ("comm/accumulation-without-no-sync",)
    threshold = Threshold(0.2, "share of the step in transfer that nothing hides")
    of_backward = Threshold(0.7, "time of the exchange against that of the backward pass's computing")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether there is work enough behind which the exchange could run."""
        reduction, steps = reduced(facts), facts.steps
        if steps is None or steps.micro_batches > 1.5 or (reduction is None and "fsdp" not in facts.settings.values):
            return None
        found = gradients_exposed(facts, self.threshold.value)
        if not isinstance(found, Exposed):
            return self.abstain(found) if found else None
        taken_ms, behind_ms = found.network_ms, found.work_ms
        link = told = None
        if reduction is not None:
            if not reduction.total_ms or not reduction.compute_ms:
                return self.abstain("the reducer took no sample of its own times")
            taken_ms, behind_ms = reduction.total_ms, reduction.compute_ms
            link = None if reduction.comm_hook else link_of(found.ranks, GRADIENTS)
            told = predicted(link, max(len(reduction.bucket_bytes), 1), reduction.parameter_bytes)
            if told is not None:
                taken_ms = told[0]
        if taken_ms < self.of_backward.value * behind_ms:
            return None
        low, high = found.network_ms / 2, found.network_ms * 3 / 4
        if not worth(facts, low):
            return None
        enough = max(2, math.ceil(9 * found.network_ms / max(found.work_ms, 1e-9)))
        loader = facts.settings.training_loader
        batch = loader.batch_size if loader else None
        now = f" from {batch} to {batch * min(enough, 8)}" if batch else ""
        at = loader.site if loader and loader.site else wrapped_at(facts) or facts.settings.sites.get("fsdp")
        return self.finding(
            title=(
                f"{percent(found.share)} of each {ms(found.step_ms)} step exchanges "
                f"{'gradients' if reduction else 'shards'}: "
                f"{ms(found.work_ms)} of work is too little for it"
            ),
            why=(
                f"{sentence(found)} The exchange takes {ms(taken_ms)} in all, and the work that it could run behind "
                f"{ms(behind_ms)}. With {enough} times the work a step, transfer would be a tenth of it."
                + (
                    f" {sentence_of(link)} At {taken_ms / behind_ms:.1f} times the batch the backward pass would "
                    "last as long as the exchange, and could hide all of it but the last bucket."
                    if link is not None and told is not None and taken_ms > behind_ms
                    else ""
                )
            ),
            evidence={
                **evidence(found),
                "work_ms": found.work_ms,
                "exchange_ms": taken_ms,
                "behind_ms": behind_ms,
                "batch_factor": float(enough),
                **({"exchange_error_ms": told[1], "hidden_at_factor": taken_ms / behind_ms} if told else {}),
            },
            fix=Fix.at(
                at, f"Give each rank more work per step: a larger batch{now}, or accumulate under no_sync().", _CODE
            ),
            gain=Gain.of(found.step_ms, low, high),
            step_ms=found.step_ms,
        )


_CODE = """\
# as many samples in fewer, larger steps; scale the learning rate with the batch
loader = DataLoader(dataset, batch_size=4 * batch_size, sampler=DistributedSampler(dataset))"""
