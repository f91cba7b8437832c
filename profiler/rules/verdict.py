"""The run's verdict: what the findings and the facts add up to."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.facts import Facts
from profiler.rules.base import Abstention, Bottleneck, Finding, Severity


@dataclass(frozen=True, slots=True)
class Verdict:
    """The bottleneck in one word, and in one sentence."""

    bottleneck: Bottleneck
    rule: str | None
    severity: Severity
    summary: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the catalogue says of a run."""

    verdict: Verdict
    findings: tuple[Finding, ...]  # ranked
    abstentions: tuple[Abstention, ...]
    failures: tuple[tuple[str, str], ...]  # (rule, error): a rule that raised


@dataclass(frozen=True, slots=True)
class Result:
    """A run's facts and what they mean: the value that every report renders."""

    facts: Facts
    judgement: Judgement
