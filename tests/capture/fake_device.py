"""A device in virtual time: a queue that works in order, the host's clock, and events that tell the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MS = 1_000_000


@dataclass(eq=False)
class FakeEvent:
    """A place in the device's queue."""

    reached_ns: int = -1


class FakeDevice:
    """Its queue and the host's clock. Nothing runs: what is launched has its time at once."""

    def __init__(self, event_ns: int = 2_000) -> None:
        self.host_ns = 1_000 * MS
        self.free_ns = 0
        self.event_ns = event_ns  # what recording or asking an event costs the host
        self.events: list[FakeEvent] = []
        self.synchronized = 0
        self.spent_ns = 0

    def clock(self) -> int:
        self.host_ns += 100
        return self.host_ns

    def work(self, host_ns: int) -> None:
        """The host computes."""
        self.host_ns += host_ns

    def launch(self, device_ns: int) -> None:
        self.host_ns += MS // 10
        self.free_ns = max(self.free_ns, self.host_ns) + device_ns

    def synchronize(self) -> None:
        self.synchronized += 1
        self.host_ns = max(self.host_ns, self.free_ns)


class FakeClock:
    """`DeviceClock` of a `FakeDevice`."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.pool: list[FakeEvent] = []
        self.capturing = False
        self.fails_at: int | None = None
        self.recorded = 0

    def _spend(self) -> None:
        self.device.host_ns += self.device.event_ns
        self.device.spent_ns += self.device.event_ns

    def usable(self) -> bool:
        return not self.capturing

    def record(self) -> FakeEvent:
        assert not self.capturing, "an event was put into a graph"
        if self.recorded == self.fails_at:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.recorded += 1
        event = self.pool.pop() if self.pool else FakeEvent()
        if event not in self.device.events:
            self.device.events.append(event)
        event.reached_ns = max(self.device.free_ns, self.device.host_ns)
        self._spend()
        return event

    def query(self, event: FakeEvent) -> bool:
        assert not self.capturing, "a query ends a capture with an error"
        self._spend()
        return event.reached_ns <= self.device.host_ns

    def elapsed_ns(self, earlier: FakeEvent, later: FakeEvent) -> int:
        self._spend()
        for event in (earlier, later):
            if event.reached_ns > self.device.host_ns:
                raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return later.reached_ns - earlier.reached_ns

    def give_back(self, events: Sequence[FakeEvent]) -> None:
        self.pool += events
