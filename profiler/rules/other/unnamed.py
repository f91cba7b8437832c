"""other/unnamed."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import WORTH_SHARE, share, step_ms
from profiler.rules.lines import standing_out
from profiler.rules.phrases import joined, ms, percent, place


class Unnamed(Rule):
    """Much of the step lies outside of every stage, and no line of it stands out.

    ## Why it is slow
    That is not known, which is the point: the time was spent between the stages, spread over many lines, or
    where no hook and no sample reached.

    ## Evidence
    `other` is at least `threshold` of the step, and the lines and functions that stand out in it (see
    `host/python-line`) cover less than `named_share` of it.

    ## Fix
    Name the parts of the loop with `profiler.stage("…")`; the next run shows each by its name.

    ## Gain
    Not known before the parts are named.

    ## Reference
    `profiler.stage` and `profiler.step`.
    """

    id = "other/unnamed"
    bottleneck = Bottleneck.OTHER
    threshold = Threshold(0.20, "share of the step outside of every stage")
    named_share = Threshold(0.5, "share of it that named lines must cover for it to be explained")

    def check(self, facts: Facts) -> Outcome:
        """Say that time is unexplained, and where it was seen."""
        other, whole = facts.stages.get("other"), step_ms(facts)
        if other is None or other.share < self.threshold.value:
            return None
        named = sum(line.ms_per_step for line in standing_out(other.lines, WORTH_SHARE * whole))
        if "forward" in facts.stages and named >= self.named_share.value * other.mean_ms:
            return None
        forward_seen = "forward" in facts.stages
        seen = [f"{place(line.site, facts)} ({percent(line.share_of_stage)})" for line in other.lines[:3]]
        why = (
            "The lines that were seen there cover too little of it to be the reason."
            if forward_seen
            else "No module's forward was seen, so that the model's own arithmetic lies there too."
        )
        if seen:
            why += f" Most samples of it fell on {joined(seen)}."
        return self.finding(
            title=(
                f"{percent(other.share)} of each {ms(whole)} step lies outside of every stage, "
                "and no line accounts for most of it"
            ),
            why=why,
            evidence={"other_share": other.share, "other_ms": other.mean_ms, "step_ms": whole},
            fix=Fix.at(
                other.lines[0].site if other.lines else None,
                "Name the parts of the loop, and run again.",
                _STAGE if forward_seen else _FORWARD,
            ),
            severity=Severity.WARNING if other.share > share(facts, "forward", "backward") else Severity.INFO,
        )


_STAGE = """\
import profiler

with profiler.stage("augment"):  # around each part of the loop that may take the time
    ..."""
_FORWARD = """\
import profiler

with profiler.stage("forward"):  # around the model's arithmetic, loss included
    ..."""
