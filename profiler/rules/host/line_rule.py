"""What the rules of one costly Python line share.

In:  the lines that the sampler saw in `other`, `forward` and `optimizer`.
Out: findings of the lines whose kind is the rule's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import ClassVar

from profiler.analysis.facts import Facts, LineTime, StageFacts
from profiler.analysis.merged_lines import by_line
from profiler.rules.base import Bottleneck, Finding, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.device import let_go
from profiler.rules.evidence import step_ms, worth
from profiler.rules.frameworks import with_arguments
from profiler.rules.host.kinds import Kind, kind_of
from profiler.rules.lines import error_of, standing_out
from profiler.rules.phrases import ms, percent, place

MOST_FINDINGS = 3
COLD = 0.25  # of the line's time, at most: what comes after it finds colder caches (seen: 3 % to 25 % of the rest)


class LineRule(Rule):
    """Names lines of one or more kinds; no rule itself. Subclasses set `threshold` and `samples`."""

    bottleneck = Bottleneck.HOST_OVERHEAD
    threshold: ClassVar[Threshold]  # share of the step spent at one line
    samples: ClassVar[Threshold]  # of the line, below which it is not named

    def check(self, facts: Facts) -> Outcome:
        """Name the lines that cost."""
        whole = step_ms(facts)
        found: list[Finding] = []
        thin = False
        freed = let_go(facts)  # transfer/pageable-memory speaks of it
        for stage, line, kind in self._suspects(facts, whole):
            if freed is not None and stage.name == "other" and line.site == freed.site:
                continue
            if not line.told_by(self.samples.value):
                thin = True
                continue
            finding = self._finding(facts, whole, stage, line, kind)
            if finding is not None:
                found.append(finding)
        if found:
            return sorted(found, key=lambda finding: -finding.recoverable_ms)[:MOST_FINDINGS]
        return self.abstain("too few samples of the costly lines were taken to name them") if thin else None

    def least(self, facts: Facts, line: LineTime, kind: Kind) -> float:
        """At least this share of the line's time goes."""
        return kind.least

    def _suspects(self, facts: Facts, whole: float) -> Iterator[tuple[StageFacts, LineTime, Kind]]:
        for name in ("other", "forward", "optimizer"):
            stage = facts.stages.get(name)
            if stage is None or (name == "other" and "forward" not in facts.stages):
                continue
            enough_ms = self.threshold.value * whole
            for line in standing_out(stage.lines, enough_ms) if name == "other" else by_line(stage.lines):
                kind = kind_of(line)
                if kind.rule != self.id or line.ms_per_step < enough_ms:
                    continue
                if not re.search(kind.leaf, line.leaf) and _calls_the_loop(facts, line):
                    continue
                if name == "other" or kind.everywhere:
                    yield stage, line, kind

    def _finding(self, facts: Facts, whole: float, stage: StageFacts, line: LineTime, kind: Kind) -> Finding | None:
        error = error_of(line)
        saves_high = min(kind.most * line.ms_per_step * (1 + error), stage.mean_ms)
        saves_high += COLD * min(line.ms_per_step, whole - line.ms_per_step)
        gain = Gain.of(whole, self.least(facts, line, kind) * line.ms_per_step * (1 - error), saves_high)
        if not worth(facts, line.ms_per_step):
            return None
        source = line.source.strip()
        known = bool(source) or not line.measured  # of a trace's function the line that ran may not be known
        where = place(line.site, facts)
        ran = f" What ran there was {line.leaf}." if line.leaf else ""
        function = f" in {line.site.function}()" if known and line.site.function not in ("", "<module>") else ""
        at = "at this line" if known else f"in {line.site.function}()"
        between = "between the stages" if stage.name == "other" else f"within {stage.name}"
        return self.finding(
            title=(
                f"{where} {kind.does} for {percent(line.ms_per_step / whole)} of each {ms(whole)} step"
                + (f": `{source}`" if source else "")
            ),
            why=(
                f"The training thread was {at}{function} in {percent(line.share_of_stage)} of the "
                f"{'time' if line.measured else 'samples'} of {stage.name}, {between}: {ms(line.ms_per_step)} a step."
                f"{ran}"
            ),
            evidence={
                "line_ms": line.ms_per_step,
                "line_share": line.ms_per_step / whole,
                **({} if line.measured else {"samples": float(line.samples)}),
                "step_ms": whole,
            },
            fix=Fix.at(
                line.site,
                kind.summary,
                with_arguments(kind.code.replace("{source}", _statement(source)), facts, kind.arguments),
            ),
            gain=gain,
            step_ms=whole,
            bottleneck=kind.bottleneck,
        )


def _statement(source: str) -> str:
    """The line, where it is a statement by itself; else what stands for it."""
    try:
        ast.parse(source)
        whole = not source.split("#", 1)[0].rstrip().endswith(",")
    except SyntaxError:
        whole = False
    return (source or "...") if whole else "...  # the statement that this line is part of"


def _calls_the_loop(facts: Facts, line: LineTime) -> bool:
    """Whether it is the line that calls a loop, e.g. `print(trainer.train())`: its text says nothing of what runs."""
    stages = (facts.stages[name] for name in ("forward", "backward", "optimizer") if name in facts.stages)
    place = (line.site.file, line.site.line)
    return sum(any((it.site.file, it.site.line) == place for it in stage.lines) for stage in stages) >= 2
