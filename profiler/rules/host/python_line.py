"""host/python-line."""

from __future__ import annotations

import math
from collections.abc import Iterator

from profiler.analysis.facts import Facts, LineTime, StageFacts
from profiler.rules.base import Bottleneck, Finding, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.host.kinds import Kind, kind_of
from profiler.rules.lines import by_line, standing_out
from profiler.rules.phrases import ms, percent, place

MOST_FINDINGS = 3


class PythonLine(Rule):
    """A line of Python on the training thread costs as much as a stage of the step.

    ## Why it is slow
    What runs between the stages runs instead of them: the next batch, forward and backward can't begin
    before the line is done.

    ## Evidence
    The sampler found the training thread at this line, or in what it calls, for at least `threshold` of the
    step. In `other` any line of the user's counts, and the lines of one function count together where none
    reaches the threshold alone. In `forward` and `optimizer` only lines count that are told from the
    model's arithmetic: logging, printing, writing, copying, sleeping, metrics, the network. It abstains
    where the sampler saw fewer than `samples` of it, and for `other` when no module's forward was seen, for
    then the model's own arithmetic lies there.

    ## Fix
    By what the line does: every 50th step instead of each, after the loop, in place, or in a worker.

    ## Gain
    The line's milliseconds, give or take the sampling error `1 / sqrt(samples)`, and of that at least what
    its kind of fix leaves: 95 % for work done every 50th step, 50 % for a batch made elsewhere, 70 % where
    the kind is not known.

    ## Reference
    PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization" and "Disable debugging
    APIs".
    """

    id = "host/python-line"
    evidence = "training"
    bottleneck = Bottleneck.HOST_OVERHEAD
    threshold = Threshold(0.05, "share of the step spent at one line")
    samples = Threshold(8, "samples of the line below which it is not named")

    def check(self, facts: Facts) -> Outcome:
        """Name the lines that cost."""
        whole = step_ms(facts)
        found: list[Finding] = []
        thin = 0
        for stage, line, kind in self._suspects(facts, whole):
            if line.samples < self.samples.value:
                thin += 1
                continue
            finding = self._finding(facts, whole, stage, line, kind)
            if finding is not None:
                found.append(finding)
        if found:
            return sorted(found, key=lambda finding: -finding.recoverable_ms)[:MOST_FINDINGS]
        other = facts.stages.get("other")
        if other is not None and other.share >= self.threshold.value:
            if "forward" not in facts.stages:
                return self.abstain("no module's forward was seen, so the model's own arithmetic lies in `other`")
            if not other.lines:
                return self.abstain(facts.not_measured.get("lines", "no line was sampled in `other`"))
        if thin:
            return self.abstain("too few samples of the costly lines were taken to name them")
        return None

    def _suspects(self, facts: Facts, whole: float) -> Iterator[tuple[StageFacts, LineTime, Kind]]:
        for name in ("other", "forward", "optimizer"):
            stage = facts.stages.get(name)
            if stage is None or (name == "other" and "forward" not in facts.stages):
                continue
            enough_ms = self.threshold.value * whole
            for line in standing_out(stage.lines, enough_ms) if name == "other" else by_line(stage.lines):
                kind = kind_of(line)
                if line.ms_per_step >= enough_ms and (name == "other" or kind.everywhere):
                    yield stage, line, kind

    def _finding(self, facts: Facts, whole: float, stage: StageFacts, line: LineTime, kind: Kind) -> Finding | None:
        error = min(0.3, 1 / math.sqrt(line.samples))
        saves_high = min(line.ms_per_step * (1 + error), stage.mean_ms)
        gain = Gain.of(whole, kind.least * line.ms_per_step * (1 - error), saves_high)
        if not worth(facts, line.ms_per_step):
            return None
        source = line.source.strip()
        where = place(line.site, facts)
        ran = f" What ran there was {line.leaf}." if line.leaf else ""
        function = f" in {line.site.function}()" if line.site.function not in ("", "<module>") else ""
        between = "between the stages" if stage.name == "other" else f"within {stage.name}"
        return self.finding(
            title=(
                f"{where} {kind.does} for {percent(line.ms_per_step / whole)} of each {ms(whole)} step"
                + (f": `{source}`" if source else "")
            ),
            why=(
                f"The training thread was at this line{function} in {percent(line.share_of_stage)} of the "
                f"samples of {stage.name}, {between}: {ms(line.ms_per_step)} a step.{ran}"
            ),
            evidence={
                "line_ms": line.ms_per_step,
                "line_share": line.ms_per_step / whole,
                "samples": float(line.samples),
                "step_ms": whole,
            },
            fix=Fix.at(line.site, kind.summary, kind.code.replace("{source}", source or "...")),
            gain=gain,
            step_ms=whole,
            bottleneck=kind.bottleneck,
        )
