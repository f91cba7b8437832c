"""What a rule is, and what it says.

A rule is a class whose docstring is its documentation: a first line that names what is wrong, then the
sections *Why it is slow*, *Evidence*, *Fix*, *Gain* and *Reference*. `check` reads facts and returns a
`Finding` (or several, of different lines), an `Abstention` (the evidence was not there) or None (looked, and
it is not so).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from profiler.analysis.facts import Facts
from profiler.analysis.site import Site
from profiler.rules.text import RuleText, rule_text

WIDEST_RANGE = 1.5  # step_ms_high / step_ms_low: a wider promise could not be wrong


class Bottleneck(str, Enum):
    """The words for what holds a training back."""

    DATA_LOADING = "data-loading"
    DATA_PREPROCESSING = "data-preprocessing"
    HOST_TO_DEVICE = "host-to-device"
    HOST_OVERHEAD = "host-overhead"
    SYNCHRONIZATION = "synchronization"
    COMPUTE = "compute"
    OPTIMIZER = "optimizer"
    COMMUNICATION = "communication"
    STRAGGLER = "straggler"
    MEMORY = "memory"
    OTHER = "other"
    NONE = "none"


class Severity(str, Enum):
    """How much it matters."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number that decides, with its meaning; the user may set it in `[tool.prof.rules."<id>"]`."""

    value: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Gain:
    """What the step would take after the fix, as a range over measured facts."""

    step_ms_low: float  # best case
    step_ms_high: float  # worst case
    speedup_low: float
    speedup_high: float

    @classmethod
    def of(cls, step_ms: float, saves_ms_low: float, saves_ms_high: float) -> Gain:
        """From the step's time and the least and most that the fix would take off it, in ms.

        A range too wide to be wrong is narrowed about its geometric middle.
        """
        saves_ms_high = min(max(saves_ms_high, saves_ms_low, 0.0), step_ms * 0.999)
        saves_ms_low = min(max(saves_ms_low, 0.0), saves_ms_high)
        low, high = step_ms - saves_ms_high, step_ms - saves_ms_low
        if high > low * WIDEST_RANGE:
            middle = math.sqrt(low * high)
            low, high = middle / math.sqrt(WIDEST_RANGE), min(middle * math.sqrt(WIDEST_RANGE), step_ms)
        return cls(low, high, step_ms / high, step_ms / low)


@dataclass(frozen=True, slots=True)
class Fix:
    """What to change, and where."""

    summary: str  # one imperative sentence
    code: str = ""  # to paste
    file: str | None = None
    line: int | None = None

    @classmethod
    def at(cls, site: Site | None, summary: str, code: str = "") -> Fix:
        """A fix at a place, where the place is known."""
        return cls(summary, code, site.file if site else None, site.line if site else None)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found in this run."""

    rule: str
    bottleneck: Bottleneck
    severity: Severity
    title: str  # one sentence with this run's numbers
    why: str  # the mechanism, in this run's numbers; plain text
    evidence: dict[str, float]
    gain: Gain | None
    fix: Fix
    reference: str = ""
    recoverable_ms: float = 0.0  # per step; findings are ranked by it


@dataclass(frozen=True, slots=True)
class Abstention:
    """A rule could not judge, and why."""

    rule: str
    reason: str


Outcome = Finding | Sequence[Finding] | Abstention | None  # what `check` answers


class Rule:
    """Base of all rules. Subclasses set the class attributes and override `check`."""

    id: ClassVar[str]  # "family/name"; the family is the folder
    bottleneck: ClassVar[Bottleneck]
    reference: ClassVar[str] = ""  # the docstring's section where empty
    evidence: ClassVar[str] = "facts"  # its proof rests on a real "training", a recorded "trace", or on "facts"
    same_line: ClassVar[bool] = False  # only a cause at the same line of the user's explains it
    explained_by: ClassVar[tuple[str, ...]] = ()  # rules whose finding is this one's cause; "*": any of the step
    per_step: ClassVar[bool] = True  # judges the step: not asked before a few steps were measured
    needs_device_times: ClassVar[bool] = True  # host times of an asynchronous device prove nothing to it

    arguments: ClassVar[Mapping[str, str]] = {}  # the trainer's own way to the fix, by framework

    def __init__(self, settings: dict[str, float] | None = None) -> None:
        """`settings` overrides thresholds by name; unknown names raise ValueError."""
        for name, value in (settings or {}).items():
            if name not in self.thresholds():
                known = ", ".join(sorted(self.thresholds())) or "none"
                raise ValueError(f"{self.id} has no threshold {name!r}; it has: {known}")
            setattr(self, name, Threshold(float(value), self.thresholds()[name].meaning))

    @classmethod
    def thresholds(cls) -> dict[str, Threshold]:
        """The rule's thresholds by name."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Threshold)}

    @classmethod
    def family(cls) -> str:
        """The first half of the id."""
        return cls.id.split("/")[0]

    @classmethod
    def text(cls) -> RuleText:
        """The rule's documentation, from its docstring."""
        return rule_text(cls.__doc__ or "")

    def check(self, facts: Facts) -> Outcome:
        """Judge the facts."""
        raise NotImplementedError

    def abstain(self, reason: str) -> Abstention:
        """The evidence was not there."""
        return Abstention(self.id, reason)

    def finding(
        self,
        title: str,
        why: str,
        evidence: dict[str, float],
        fix: Fix,
        gain: Gain | None = None,
        step_ms: float = 0.0,
        severity: Severity | None = None,
        bottleneck: Bottleneck | None = None,
    ) -> Finding:
        """A finding of this rule; it recovers the middle of its gain, and its severity follows."""
        recoverable_ms = step_ms - (gain.step_ms_low + gain.step_ms_high) / 2 if gain else 0.0
        if severity is None:
            severity = severity_of(recoverable_ms / step_ms if step_ms else 0.0)
        reference = self.reference or self.text().section("Reference")
        return Finding(
            self.id,
            bottleneck or self.bottleneck,
            severity,
            title,
            why,
            evidence,
            gain,
            fix,
            reference,
            recoverable_ms,
        )


def severity_of(share: float, warning: float = 0.10, critical: float = 0.20) -> Severity:
    """Severity by the share of the step that could be recovered (5 % note, 10 % warn, 20 % critical)."""
    if share >= critical:
        return Severity.CRITICAL
    return Severity.WARNING if share >= warning else Severity.INFO
