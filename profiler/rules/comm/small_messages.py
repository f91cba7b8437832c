"""comm/many-small-messages."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import CollectiveRow
from profiler.analysis.site import Site
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.exposed import GRADIENTS, Exposed, evidence, exposed
from profiler.rules.comm.link import link_of, predicted, sentence_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent, size


class ManySmallMessages(Rule):
    """Many small messages are exchanged where few large ones would do.

    ## Why it is slow
    A message costs its latency before its first byte arrives, however small it is; all ranks pay it together.

    ## Evidence
    Collectives that the program calls itself come at least `calls` times a step with at most `small_bytes` each, and
    the rank that waits least for them is blocked for at least `threshold` of the step. Abstains where waiting for
    late ranks can't be told from transfer.

    ## Fix
    Lay the tensors into one flat buffer and exchange that; for gradients let DistributedDataParallel do it.

    ## Gain
    One message for all: what the n messages take, less what one of all their bytes would take by the latency and rate
    that the run's own messages show, within the error of these; 75 % to 100 % of it, since tensors are copied together.
    Where latency and rate can't be told: (n - 1) / n of what the shortest took each, 60 % to 100 % of it.

    ## Reference
    PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., VLDB 2020), section 3.2.1.
    """

    id = "comm/many-small-messages"
    evidence = "training"
    bottleneck = Bottleneck.COMMUNICATION
    threshold = Threshold(0.05, "share of the step in these messages")
    calls = Threshold(8, "calls a step from which they are many")
    small_bytes = Threshold(256 << 10, "bytes a message up to which it is small")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether messages could be joined."""
        if facts.ranks is None:
            return None
        small = [row for row in facts.ranks.collectives if self._is_small(row)]
        calls = sum(row.calls for row in small)
        taken_ms = sum(row.calls * (row.ms or 0.0) for row in small)
        if calls < self.calls.value:
            return None
        found = exposed(facts, self.threshold.value)
        if not isinstance(found, Exposed):
            return self.abstain(found) if found else None
        taken_ms = min(taken_ms, found.network_ms)
        if taken_ms < self.threshold.value * found.step_ms:
            return None
        each_ms = sum(row.calls * min(row.shortest_ms or row.ms or 0.0, row.ms or 0.0) for row in small) / calls
        high = taken_ms * (calls - 1) / calls
        low = min(0.6 * high, each_ms * (calls - 1))
        total_bytes = sum(row.calls * row.bytes for row in small)
        kinds = {row.kind for row in small}
        link = link_of(facts.ranks, small[0].kind) if len(kinds) == 1 else None
        joined = predicted(link, 1, total_bytes)
        if joined is not None:
            after_ms, error_ms = joined
            high = max(0.0, taken_ms - max(0.0, after_ms - error_ms))
            low = 0.75 * max(0.0, taken_ms - after_ms - error_ms)
        if not worth(facts, high):
            return None
        return self.finding(
            title=(
                f"{calls:.0f} messages of {size(total_bytes / calls)} a step take {ms(taken_ms)} "
                f"({percent(taken_ms / found.step_ms)}) of it"
            ),
            why=(
                f"Each {small[0].kind} costs about {ms(each_ms)} of latency before it carries anything, and there are "
                f"{calls:.0f} of them a step for {size(total_bytes)} in all."
                + (f" {sentence_of(link)} One message would take {ms(joined[0])}." if link and joined else "")
            ),
            evidence={
                **evidence(found),
                "messages_per_step": calls,
                "messages_ms": taken_ms,
                "message_bytes": total_bytes / calls,
                "shortest_ms": each_ms,
                **({"joined_ms": joined[0], "joined_error_ms": joined[1]} if joined else {}),
            },
            fix=Fix.at(exchanged_at(facts), "Exchange one flat buffer instead of each tensor.", _CODE),
            gain=Gain.of(found.step_ms, low, high),
            step_ms=found.step_ms,
        )

    def _is_small(self, row: CollectiveRow) -> bool:
        return row.kind != GRADIENTS and row.ms is not None and 0 < row.bytes <= self.small_bytes.value


def exchanged_at(facts: Facts) -> Site | None:
    """The user's line that exchanges."""
    stage = facts.stages.get("communication")
    if stage is None:
        return None
    return stage.lines[0].site if stage.lines else stage.call


_CODE = """\
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

grads = [p.grad for p in model.parameters() if p.grad is not None]
flat = _flatten_dense_tensors(grads)
dist.all_reduce(flat)
for grad, reduced in zip(grads, _unflatten_dense_tensors(flat, grads)):
    grad.copy_(reduced / dist.get_world_size())"""
