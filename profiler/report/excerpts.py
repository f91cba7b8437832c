"""One step in full, for plotly.js: a row each for stages, operators, threads and streams.

In:  `StepExcerpt`s.
Out: a `Chart` each. What is too short to be seen is joined with its neighbours, so that the page stays small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from profiler.analysis.excerpt import CALLS, DEVICE, OPERATORS, STAGES, WORKERS, ExcerptRow, StepExcerpt
from profiler.report import palette, wording
from profiler.report.charts import Chart, chart_layout, label_text, rounded
from profiler.report.device import names

SEEN_SHARE = 1 / 1500  # of the step: shorter spans are joined
ROW_HEIGHT = 26
OPERATOR, WAIT, BATCH, REST = "#8fa9c4", "#f0e442", "#e69f00", "#9aa1ab"
_KERNELS = {name: f"{names.family(name)} kernels" for name in palette.FAMILIES if name != "copy"} | {
    "collective": "collectives"
}
_COLOURS = {
    **{wording.label(name): colour for name, colour in palette.colours(wording.STAGE_LABELS).items()},
    "operator": OPERATOR,
    "waits for the device": WAIT,
    "batches of workers": BATCH,
    **{text: palette.FAMILIES[name] for name, text in _KERNELS.items()},
    "copy or memset": palette.FAMILIES["copy"],
}


class Swatch(NamedTuple):
    """A colour and what it stands for."""

    name: str
    colour: str


class Box(NamedTuple):
    """One rectangle. Milliseconds."""

    start: float
    length: float
    text: str
    group: str  # class that colours it


def excerpt_charts(excerpts: Sequence[StepExcerpt]) -> dict[str, Chart]:
    """A chart for each step, by the names that the page gives them."""
    return {f"step_{number}": excerpt_chart(excerpt) for number, excerpt in enumerate(excerpts)}


def excerpt_chart(excerpt: StepExcerpt) -> Chart:
    """The chart of one step; its colours are explained by `swatches`."""
    by_group: dict[str, list[tuple[str, Box]]] = defaultdict(list)
    drawn = 0
    for row in excerpt.rows:
        for box in joined(row, excerpt.wall_ms * SEEN_SHARE):
            by_group[box.group].append((_row_label(row), box))
            drawn += 1
    data = [_trace(group, boxes, _COLOURS.get(group, REST)) for group, boxes in by_group.items()]
    labels = list(dict.fromkeys(_row_label(row) for row in excerpt.rows))
    layout = chart_layout("ms since the step began", "", height=70 + ROW_HEIGHT * len(labels))
    layout |= {"barmode": "overlay", "bargap": 0.18, "hovermode": "closest"}
    layout["xaxis"] |= {"range": [0, excerpt.wall_ms], "showgrid": True}
    layout["yaxis"] |= {
        "categoryorder": "array",
        "categoryarray": labels,
        "autorange": "reversed",
        "dtick": 1,
        "fixedrange": True,
        "showgrid": False,
    }
    return Chart({"data": data, "layout": layout}, _note(excerpt, drawn))


def swatches(excerpts: Sequence[StepExcerpt]) -> list[Swatch]:
    """What the colours stand for, of those that are drawn, in a step's order."""
    rows = [row for excerpt in excerpts for row in excerpt.rows]
    seen = {_group(row, group) for row in rows for group in set(row.classes)}
    return [Swatch(name, colour) for name, colour in _COLOURS.items() if name in seen]


def joined(row: ExcerptRow, least_ms: float) -> list[Box]:
    """The row's spans, those too short to be seen joined with what follows at once."""
    boxes: list[Box] = []
    many = 0  # spans in the last box
    for start_us, length_us, name, group in zip(row.start_us, row.length_us, row.names, row.classes, strict=True):
        start, length = start_us / 1e3, length_us / 1e3
        told = _group(row, group)
        if boxes and many and length < least_ms and start - (boxes[-1].start + boxes[-1].length) < least_ms:
            last = boxes[-1]
            if last.length < 4 * least_ms and last.group == told:
                many += 1
                end = max(last.start + last.length, start + length)
                boxes[-1] = Box(last.start, end - last.start, f"{many} short ones", told)
                continue
        boxes.append(Box(start, length, _text(row, name, group), told))
        many = 1 if length < least_ms else 0
    return boxes


def _group(row: ExcerptRow, group: str) -> str:
    if row.kind == OPERATORS:
        return "operator"
    if row.kind == CALLS:
        return "waits for the device"
    if row.kind == WORKERS:
        return "batches of workers"
    if row.kind == DEVICE:
        if group in names.COPIES or group in ("copy", "memset"):
            return "copy or memset"
        return _KERNELS.get(group, _KERNELS["other"])
    return wording.label(group)


def _text(row: ExcerptRow, name: str, group: str) -> str:
    short = names.kernel(name) if row.kind == DEVICE else wording.printable(name)[: names.LONGEST]
    if row.kind == STAGES and name != group:
        return f"{wording.label(group)}: {wording.label(short)}"
    return short


def _row_label(row: ExcerptRow) -> str:
    several = row.group not in ("host", "device 0")
    return label_text(f"{row.name}, {row.group}" if several else row.name)[:40]


def _trace(group: str, boxes: Sequence[tuple[str, Box]], colour: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": label_text(group),
        "y": [label for label, _ in boxes],
        "base": rounded([box.start for _, box in boxes], 6),
        "x": rounded([box.length for _, box in boxes], 4),
        "text": [label_text(box.text) for _, box in boxes],
        "textposition": "none",
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertemplate": f"%{{text}}<br>%{{x:.3~g}} ms, from %{{base:.5~g}} ms<extra>{label_text(group)}</extra>",
    }


def _note(excerpt: StepExcerpt, drawn: int) -> str:
    note = "Drag to look closer, click twice to return."
    total = excerpt.spans + excerpt.left_out
    if drawn < total:
        note += f" {wording.count(total)} spans; those too short to be seen are joined."
    return note
