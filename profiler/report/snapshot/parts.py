"""Pieces that the page of a snapshot and a run's report share.

In:  `DeviceMemory`.
Out: the pieces of its bar, and the lines that held most.
"""

from __future__ import annotations

from profiler.analysis.snapshot_facts import DeviceMemory, Holding
from profiler.report import palette
from profiler.report.part import Part
from profiler.report.snapshot import wording
from profiler.report.wording import byte_size

MOST_LINES = 40


def category_parts(device: DeviceMemory) -> list[Part]:
    """The pieces of the bar of one device's memory."""
    whole = device.held_bytes or 1
    return [
        Part(
            wording.category(name),
            byte_size(held),
            held / whole,
            palette.HELD[name],
            list(palette.HELD).index(name) % 7,
        )
        for name, held in device.categories_bytes.items()
        if held
    ]


def line_rows(device: DeviceMemory, root: str) -> list[tuple[Holding, str, str, float]]:
    """The lines that held most: each with its place, torch's function and the width of its meter in percent."""
    shown = [it for it in device.holdings[:MOST_LINES] if it.bytes >= 0.001 * device.held_bytes]
    longest = max((it.bytes for it in shown), default=0) or 1
    return [(it, *wording.line(it, root), round(100 * it.bytes / longest, 1)) for it in shown]
