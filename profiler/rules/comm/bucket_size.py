"""comm/bucket-size."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import LinkModel, Reduction
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.exposed import GRADIENTS, Exposed, evidence, gradients_exposed, reduced, sentence, wrapped_at
from profiler.rules.comm.link import link_of, predicted, sentence_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import counted, ms, percent, size

_BUCKETS = 8  # that let the first be sent while most of backward is still to come
_COUNTS = (2, 4, 8, 16, 32, 64)
_LEAST_BYTES = 1 << 20  # of a bucket


class BucketSize(Rule):
    """Gradients leave in buckets too large to be sent behind the backward pass, or too small to be worth sending.

    ## Why it is slow
    DistributedDataParallel sends a bucket once all its gradients are there. With one bucket for the whole model
    nothing is sent before backward has ended; with very many each pays for a message of its own.

    ## Evidence
    The transfer that nothing hides is at least `threshold` of the step, and either at most two buckets hold the
    model and less than `hidden_share` of the exchange ran behind backward, or the buckets are smaller than
    `small_bytes` and there are more than `many` of them. Abstains where the reducer took no sample.

    ## Fix
    Set `bucket_cap_mb` to the size whose exposed part is least by the link's latency and rate, where the run's own
    messages show these; else to about an eighth of the model's gradients. At least 1 MiB.

    ## Gain
    For large buckets: what could run behind backward, at most all but the last of n buckets (n = 8 without a model of
    the link) and at most backward's own computing, 30 % to 80 % of it. For small ones the latency that fewer messages
    save, by the model of the link, 60 % to 100 % of it; without one, 20 % to 50 % of the transfer.

    ## Reference
    PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., VLDB 2020), section 4.2.
    """

    id = "comm/bucket-size"
    bottleneck = Bottleneck.COMMUNICATION
    explained_by = ("comm/accumulation-without-no-sync",)
    threshold = Threshold(0.05, "share of the step in transfer that nothing hides")
    hidden_share = Threshold(0.3, "of the exchange, hidden behind backward, below which buckets are too large")
    small_bytes = Threshold(1 << 20, "mean bytes of a bucket below which buckets are too small")
    many = Threshold(8, "small buckets above which there are too many")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether other buckets would hide more, or cost less."""
        reduction = reduced(facts)
        if reduction is None or not reduction.bucket_bytes:
            return None
        found = gradients_exposed(facts, self.threshold.value)
        if not isinstance(found, Exposed):
            return self.abstain(found) if found else None
        count = len(reduction.bucket_bytes)
        mean_bytes = sum(reduction.bucket_bytes) / count
        link = link_of(found.ranks, GRADIENTS)
        best = best_count(link, reduction)
        if count > self.many.value and mean_bytes < self.small_bytes.value:
            low, high = 0.2 * found.network_ms, 0.5 * found.network_ms
            if best is not None and link is not None and best < count:
                saves_ms, error_ms = (count - best) * link.latency_ms, (count - best) * link.latency_error_ms
                high = min(saves_ms + error_ms, 0.95 * found.network_ms)
                low = min(0.6 * max(saves_ms - error_ms, 0.0), high)
            return self._say(facts, found, reduction, (low, high), best, "too small")
        if count > 2 or reduction.parameter_bytes < 2 * self.small_bytes.value:
            return None
        if not reduction.total_ms or reduction.hidden_ms is None or not reduction.compute_ms:
            return self.abstain("the reducer took no sample of its own times")
        if reduction.hidden_ms >= self.hidden_share.value * reduction.total_ms:
            return None
        buckets = best or _BUCKETS
        could = min(found.network_ms * (buckets - 1) / buckets, reduction.compute_ms)
        return self._say(facts, found, reduction, (0.3 * could, 0.8 * could), best, "too large")

    def _say(
        self,
        facts: Facts,
        found: Exposed,
        reduction: Reduction,
        saves_ms: tuple[float, float],
        best: int | None,
        what: str,
    ) -> Outcome:
        low, high = saves_ms
        if not worth(facts, high):
            return None
        count = len(reduction.bucket_bytes)
        megabytes = max(1, round(reduction.parameter_bytes / (best or _BUCKETS) / (1 << 20)))
        link = link_of(found.ranks, GRADIENTS) if best is not None else None
        return self.finding(
            title=(
                f"{counted(count, 'bucket')} for {size(reduction.parameter_bytes)} of gradients: {what}, and "
                f"{percent(found.share)} of each {ms(found.step_ms)} step waits for them"
            ),
            why=(
                f"{sentence(found)} The reducer sends {counted(count, 'bucket')} a step"
                + (
                    ", and the first leaves when most of the backward pass is over."
                    if what == "too large"
                    else f" of {size(sum(reduction.bucket_bytes) / count)} each, and every one is a message."
                )
                + (f" {sentence_of(link)}" if link is not None else "")
            ),
            evidence={
                **evidence(found),
                "buckets": float(count),
                "gradients_bytes": float(reduction.parameter_bytes),
                "bucket_cap_bytes": float(reduction.bucket_cap_bytes or 0),
                **({"best_buckets": float(best)} if best is not None else {}),
            },
            fix=Fix.at(
                wrapped_at(facts),
                f"Wrap the model with bucket_cap_mb={megabytes}, and measure a neighbour on each side.",
                f"model = DistributedDataParallel(model, bucket_cap_mb={megabytes})",
            ),
            gain=Gain.of(found.step_ms, low, high),
            step_ms=found.step_ms,
        )


def best_count(link: LinkModel | None, reduction: Reduction) -> int | None:
    """How many equal buckets leave least exposed; None where the link's times are not known well enough.

    The last bucket can hide behind nothing; the others behind the backward pass, as far as it lasts.
    """
    whole, behind = reduction.parameter_bytes, reduction.compute_ms or 0.0
    exposed_ms = {}
    for count in _COUNTS:
        taken = predicted(link, count, whole)
        if taken is not None and (count == _COUNTS[0] or whole / count >= _LEAST_BYTES):
            early = taken[0] * (count - 1) / count
            exposed_ms[count] = taken[0] / count + max(0.0, early - behind * (count - 1) / count)
    return min(exposed_ms, key=lambda count: exposed_ms[count]) if exposed_ms else None
