"""A snapshot as one HTML file, in the style of a run's report.

In:  an `Explained` snapshot.
Out: the file's text.
"""

from __future__ import annotations

from profiler.report.page import environment, page_values
from profiler.report.snapshot import wording
from profiler.report.snapshot.charts import memory_over_events
from profiler.report.snapshot.parts import category_parts, line_rows
from profiler.report.snapshot.pipeline import Explained

MOST_DEVICES = 16  # that a page shows


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
