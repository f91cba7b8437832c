"""A snapshot as one HTML file, in the style of a run's report.

In:  an `Explained` snapshot.
Out: the file's text.
"""

from __future__ import annotations

from profiler.analysis.snapshot_facts import DeviceMemory, Holding
from profiler.report import palette
from profiler.report.page import environment, page_values
from profiler.report.part import Part
from profiler.report.snapshot import wording
from profiler.report.snapshot.charts import memory_over_events
from profiler.report.snapshot.pipeline import Explained
from profiler.report.wording import byte_size

MOST_DEVICES = 16  # that a page shows
MOST_LINES = 40


def render_page(explained: Explained) -> str:
    """The page of a snapshot."""
    shown = sorted(explained.snapshot.devices, key=lambda it: (not it.ooms, -it.held_bytes))[:MOST_DEVICES]
    made = {f"memory-{device.device}": memory_over_events(device) for device in shown}
    figures = {name: chart for name, chart in made.items() if chart is not None}
    chip, tone = wording.chip(explained)
    findings = explained.judgement.findings
    return (
        environment()
        .get_template("snapshot.html.j2")
        .render(
            title=explained.snapshot.source,
            headline=wording.headline(explained),
            chip=chip,
            tone=tone,
            facts=explained.facts,
            judgement=explained.judgement,
            top=findings[0] if findings else None,
            root=explained.facts.root,
            snapshot=explained.snapshot,
            devices=shown,
            left_out=len(explained.snapshot.devices) - len(shown),
            parts={device.device: category_parts(device) for device in shown},
            rows={device.device: line_rows(device, explained.facts.root) for device in shown},
            words=wording,
            **page_values(figures),
        )
    )


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
