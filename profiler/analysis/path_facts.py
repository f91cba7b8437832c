"""What sets the length of a step: the part of `Facts` that says what lies on its critical path.

Times are milliseconds. The path is found by `device/critical_path.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.site import Site


@dataclass(frozen=True, slots=True)
class HostPart:
    """The host's part of the path in one operator, stage and line."""

    operator: str  # the innermost; "" for Python between operators
    stage: str
    ms: float
    site: Site | None = None


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """The path through a typical step; the parts make up the step exactly."""

    step: int
    step_ms: float
    host_ms: dict[str, float]  # by stage; without the wait for data
    data_wait_ms: float
    launch_ms: float  # from the end of a launch to the start of its work
    kernels_ms: dict[str, float]  # by family; without collectives
    copies_ms: float  # copies and memsets
    collectives_ms: float
    unknown_ms: float  # between queued pieces of work, and what the recording does not explain
    device_busy_ms: float | None = None  # within the step; None: nothing of a device was recorded
    of_device: bool = False  # the device's own step, where it ends the steps' work long after the host left them
    host: tuple[HostPart, ...] = ()  # largest first

    @property
    def room_ms(self) -> float | None:
        """By how much the step can get shorter before the device, as busy as it is, sets its length."""
        return None if self.device_busy_ms is None else max(0.0, self.step_ms - self.device_busy_ms)

    @property
    def parts_ms(self) -> dict[str, float]:
        """All parts by name, largest first: "data_wait", "host_<stage>", "kernels_<family>", "copies", …"""
        parts = {f"host_{stage}": ms for stage, ms in self.host_ms.items()}
        parts |= {f"kernels_{family}": ms for family, ms in self.kernels_ms.items()}
        parts |= {
            "data_wait": self.data_wait_ms,
            "launch": self.launch_ms,
            "copies": self.copies_ms,
            "collectives": self.collectives_ms,
            "unknown": self.unknown_ms,
        }
        return dict(sorted(((name, ms) for name, ms in parts.items() if ms > 0), key=lambda part: -part[1]))
