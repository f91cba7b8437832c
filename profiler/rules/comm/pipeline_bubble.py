"""comm/pipeline-bubble."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.pipeline import Pipeline, pipeline
from profiler.rules.evidence import worth
from profiler.rules.phrases import counted, ms, percent

_MORE = 2  # times as many micro-batches


class PipelineBubble(Rule):
    """The pipeline's ranks stand still while it fills and empties, since a batch is cut into few micro-batches.

    ## Why it is slow
    The last stage has nothing to do before the first micro-batch has come through all others, and the first one
    nothing while the last gradients come back. With p ranks and m micro-batches that is (p - 1) / (m + p - 1) of the
    step, however fast the network is.

    ## Evidence
    A schedule of torch.distributed.pipelining is in use. What it makes the rank that works longest stand still, its
    work times (p - 1) / m, is at least `threshold` of the step, and that rank was seen to wait for so long. Abstains
    where a rank left no record, and where the device's own clock was not read.

    ## Fix
    More micro-batches per step; with several stages on each rank, an interleaved schedule.

    ## Gain
    With twice the micro-batches half of it: 30 % to 50 %, since smaller micro-batches compute less efficiently and each
    is handed on by itself. What is left is judged again by the next run.

    ## Reference
    GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism (Huang et al., NeurIPS 2019), section
    2.3.
    """

    id = "comm/pipeline-bubble"
    evidence = "training"
    bottleneck = Bottleneck.COMMUNICATION
    threshold = Threshold(0.15, "share of the step in which the busiest rank waits for the pipeline to fill or empty")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether more micro-batches would fill the pipeline."""
        found = pipeline(facts)
        if not isinstance(found, Pipeline):
            return self.abstain(found) if found else None
        idle_ms = min(found.fill_ms, found.waits_ms)
        if idle_ms < self.threshold.value * found.step_ms or not worth(facts, idle_ms):
            return None
        many = _MORE * found.micro_batches
        return self.finding(
            title=(
                f"the pipeline fills and empties for {ms(idle_ms)} ({percent(idle_ms / found.step_ms)}) of each "
                f"{ms(found.step_ms)} step: {counted(found.micro_batches, 'micro-batch', 'micro-batches')} are few for "
                f"{found.stages} stages"
            ),
            why=(
                f"Rank {found.longest} works longest, {ms(found.longest_ms)} a step, and waits for the rest of it. "
                f"Until the first micro-batch has come through all {found.stages} stages, and once the last one has "
                f"left its own, a rank has nothing to do under {found.schedule}."
            ),
            evidence={
                "idle_ms": idle_ms,
                "micro_batches": float(found.micro_batches),
                "stages": float(found.stages),
                "longest_work_ms": found.longest_ms,
                "step_ms": found.step_ms,
            },
            fix=Fix.at(
                found.site,
                f"Cut each batch into {many} micro-batches.",
                f"schedule = {found.schedule}(stage, n_microbatches={many}, loss_fn=loss_fn)",
            ),
            gain=Gain.of(found.step_ms, 0.3 * idle_ms, (1 - 1 / _MORE) * idle_ms),
            step_ms=found.step_ms,
        )
