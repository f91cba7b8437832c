"""What rules promised, beside what their cure gave, as it was last measured.

In:  `gains.json`, which `python -m benchmarks gains --write` writes, and `gains_on_gpu.json`, which a test holds
     against the recordings in `tests/recorded`.
Out: `MeasuredGain`s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MOST_NOISE = 0.2  # above which nothing was measured
GAINS = Path(__file__).with_name("gains.json")
GAINS_ON_GPU = Path(__file__).with_name("gains_on_gpu.json")


@dataclass(frozen=True, slots=True)
class MeasuredGain:
    """A rule's promise for a training with a planted fault, and the speed of its cured twin."""

    rule: str
    scenario: str  # the script's name in tests/scenarios
    promised_low: float  # times as fast
    promised_high: float
    measured: float  # times as fast
    planted_ms: float  # a step
    cured_ms: float
    noise: float = 0.0  # of `measured`, as a share of it: the half width of its 95 % interval; 0 where not known

    @property
    def holds(self) -> bool:
        """Whether the measurement lies in the promised range."""
        return self.holds_by(0.0)

    @property
    def holds_within_noise(self) -> bool:
        """Whether it lies in the range as far as can be told; not where noise leaves that open."""
        low, high = self.promised_low * (1 - self.noise), self.promised_high * (1 + self.noise)
        return self.noise <= MOST_NOISE and low <= self.measured <= high

    def holds_by(self, margin: float) -> bool:
        """Whether it lies in the range, and so much of itself away from its ends."""
        return self.promised_low * (1 + margin) <= self.measured <= self.promised_high / (1 + margin)


@cache
def measured_gains() -> tuple[MeasuredGain, ...]:
    """By training; empty where nothing was measured yet."""
    return tuple(_read()[1])


@cache
def measured_on() -> str:
    """The machine, and how often it was measured, in words."""
    return _read()[0]


@cache
def gains_on_gpu() -> tuple[MeasuredGain, ...]:
    """By training, as `measured_on_gpu` ran them."""
    return tuple(_read(GAINS_ON_GPU)[1])


@cache
def measured_on_gpu() -> str:
    """The GPU, and how it was measured, in words."""
    return _read(GAINS_ON_GPU)[0]


def _read(path: Path = GAINS) -> tuple[str, list[MeasuredGain]]:
    if not path.exists():
        return "", []
    held = json.loads(path.read_text("utf-8"))
    return str(held["machine"]), [MeasuredGain(**row) for row in held["gains"]]
