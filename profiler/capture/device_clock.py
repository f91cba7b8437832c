"""A device's own clock: events that it reaches when all work queued before them is done.

In:  the device that the parameters are on.
Out: `DeviceClock`, or why there is none. Nothing here waits for the device, and nothing initialises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class DeviceClock(Protocol):
    """What device times are read from. Any call may raise what the device's library raises."""

    def usable(self) -> bool:
        """Whether an event may be recorded now: not while a graph is being captured."""
        ...

    def record(self) -> Any:
        """Queue an event on the stream that is current now."""
        ...

    def query(self, event: Any) -> bool:
        """Whether the device has reached an event. Does not wait."""
        ...

    def elapsed_ns(self, earlier: Any, later: Any) -> int:
        """Between two events that were reached, on the device's clock; negative where streams overtook each other."""
        ...

    def give_back(self, events: Sequence[Any]) -> None:
        """These events may be recorded again."""
        ...


class TorchClock:
    """Events of `torch.cuda` (ROCm too), `torch.xpu` or a backend of the same shape, used again and again."""

    def __init__(self, module: Any, index: int | None) -> None:
        self._event = module.Event
        self._current_stream = module.current_stream
        self._capturing = getattr(module, "is_current_stream_capturing", None)
        self._index = index
        self._pool: list[Any] = []

    def usable(self) -> bool:
        return self._capturing is None or not self._capturing()

    def record(self) -> Any:
        event = self._pool.pop() if self._pool else self._event(enable_timing=True)
        event.record(self._current_stream(self._index))
        return event

    def query(self, event: Any) -> bool:
        return bool(event.query())

    def elapsed_ns(self, earlier: Any, later: Any) -> int:
        # milliseconds as a 32-bit float: 60 ns at a second's distance
        return round(float(earlier.elapsed_time(later)) * 1e6)

    def give_back(self, events: Sequence[Any]) -> None:
        self._pool += events


def open_clock(device: torch.device) -> DeviceClock | str:
    """The clock of a device that the training uses; or why it has none, as a clause."""
    if device.type == "mps":
        return "Metal's events can be read only by waiting for the device"
    module = getattr(torch, device.type, None)
    if not hasattr(module, "Event") or not hasattr(module, "current_stream"):
        return f"torch has no timed events for {device.type}"
    initialized = getattr(module, "is_initialized", None)
    if initialized is not None and not initialized():
        return f"{device.type} was not in use yet"
    return TorchClock(module, device.index)
