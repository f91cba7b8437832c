"""What a run's report says of the snapshot that it kept.

In:  `Facts`.
Out: `HeldSection`s: for each device what held its memory when it ran out; none where no snapshot was kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.facts import Facts
from profiler.analysis.snapshot_facts import DeviceMemory, Holding
from profiler.report.part import Part
from profiler.report.snapshot import wording
from profiler.report.snapshot.parts import category_parts, line_rows
from profiler.report.wording import byte_size

LINES = 12


@dataclass(frozen=True, slots=True)
class HeldSection:
    """One device."""

    device: DeviceMemory
    sentence: str
    parts: tuple[Part, ...]
    rows: tuple[tuple[Holding, str, str, float], ...]
    figures: tuple[tuple[str, str], ...]


def held_sections(facts: Facts) -> list[HeldSection]:
    """The devices of the snapshot, those that ran out first."""
    devices = facts.snapshot.devices if facts.snapshot else ()
    shown = sorted((device for device in devices if device.held_bytes), key=lambda it: (not it.ooms, -it.held_bytes))
    return [
        HeldSection(
            device,
            _sentence(device),
            tuple(category_parts(device)),
            tuple(line_rows(device, facts.root)[:LINES]),
            tuple(wording.layout_rows(device.layout)),
        )
        for device in shown
    ]


def _sentence(device: DeviceMemory) -> str:
    held = byte_size(device.held_bytes)
    if not device.ooms:
        return f"Device {device.device} held {held}."
    last = device.ooms[-1]
    return (
        f"Device {device.device} could not give {byte_size(last.requested_bytes)}: {held} were held, "
        f"{byte_size(last.layout.free_bytes)} of what was reserved were free, and the driver had "
        f"{byte_size(last.driver_free_bytes)} left."
    )
