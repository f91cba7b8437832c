"""The three answers of a plan: memory, time, cost. `None` means not known, never zero."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.planner.quantity import DAY_S, YEAR_S


@dataclass(frozen=True, slots=True)
class MemoryAnswer:
    """Bytes; None where the model gives no figure."""

    parameters: float | None
    gradients: float | None
    optimizer: float | None
    activations: float | None
    buffers: tuple[float | None, float | None]
    per_device: tuple[float | None, float | None]
    device_parts: dict[str, float | None]  # after sharding, by category
    host: float | None
    device_bytes: float
    fits: str  # "yes", "no", "unsure"
    least_devices: int | None

    @property
    def total(self) -> float | None:
        """Parameters, gradients, optimizer states and, where known, activations of one replica."""
        if self.parameters is None or self.gradients is None or self.optimizer is None:
            return None
        return self.parameters + self.gradients + self.optimizer + (self.activations or 0.0)


@dataclass(frozen=True, slots=True)
class TimeAnswer:
    """Seconds and FLOPs; the ranges come from that of the efficiency."""

    flops: float | None
    step_s: float | None
    step_range_s: tuple[float, float] | None
    seconds: float | None
    seconds_range: tuple[float, float] | None
    device_hours: float | None
    bound_by: str | None
    mfu: float | None
    hfu: float | None
    terms_s: dict[str, float]  # of one step
    bubble_share: float | None
    units_per_s: float | None
    steps: float | None

    @property
    def days(self) -> float | None:
        """The whole training in days."""
        return None if self.seconds is None else self.seconds / DAY_S

    @property
    def years(self) -> float | None:
        """The same in years of 365.25 days."""
        return None if self.seconds is None else self.seconds / YEAR_S


@dataclass(frozen=True, slots=True)
class CostAnswer:
    """Dollars and energy of the whole training."""

    usd: float | None
    usd_range: tuple[float, float] | None
    price_per_device_hour: float | None
    kwh: float | None
