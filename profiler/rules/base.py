"""What a rule is, and what it says.

A rule is a class whose docstring is its documentation: a first line that names what is wrong, then the
sections *Why it is slow*, *Evidence*, *Fix*, *Gain* and *Reference*. `check` reads facts and returns a
`Finding`, an `Abstention` (the evidence was not there) or None (looked, and it is not so).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from profiler.analysis.facts import Facts, Site


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
        """From the step's time and the least and most that the fix would take off it, in ms."""
        saves_ms_high = min(max(saves_ms_high, saves_ms_low, 0.0), step_ms * 0.999)
        saves_ms_low = min(max(saves_ms_low, 0.0), saves_ms_high)
        low, high = step_ms - saves_ms_high, step_ms - saves_ms_low
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


class Rule:
    """Base of all rules. Subclasses set the class attributes and override `check`."""

    id: ClassVar[str]
    bottleneck: ClassVar[Bottleneck]
    reference: ClassVar[str] = ""

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

    def check(self, facts: Facts) -> Finding | Abstention | None:
        """Judge the facts."""
        raise NotImplementedError

    def abstain(self, reason: str) -> Abstention:
        """The evidence was not there."""
        return Abstention(self.id, reason)


def severity_of(share: float, warning: float = 0.10, critical: float = 0.20) -> Severity:
    """Severity by the share of the step that could be recovered (5 % note, 10 % warn, 20 % critical)."""
    if share >= critical:
        return Severity.CRITICAL
    return Severity.WARNING if share >= warning else Severity.INFO
