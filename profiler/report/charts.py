"""Figures for plotly.js, as plain dicts: importing plotly would cost more than drawing them.

In:  `Timeline`, `Histogram`, `MemoryFacts`, `StepFacts`.
Out: a `Chart` each: what plotly.js draws (text escaped, since it reads labels as HTML), and what its
     reader must know. The tests validate every figure with plotly itself.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from profiler.analysis.facts import Histogram, MemoryFacts, StepFacts, Timeline
from profiler.report import palette, wording

MAX_ROWS = 500
FEW_STEPS = 10  # fewer have no distribution to draw
MAX_BINS = 120
MAX_MEMORY_POINTS = 600
FONT = '-apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif'
GREY, BLUE, VERMILLION = "#8a93a0", "#2a8fd1", "#d55e00"  # legible on white and on black


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure and its caption."""

    figure: dict[str, Any]
    note: str


def label_text(text: str) -> str:
    """Text as a plotly label: plotly reads a subset of HTML and `%{…}` in labels."""
    return html.escape(wording.printable(text), quote=False).replace("%{", "%&#123;")


def timeline(value: Timeline, steps: StepFacts) -> Chart | None:
    """Stages stacked over the run, with the slowest step of each row and the outliers."""
    if len(value.start_s) < 2:
        return None
    rows = _fold(value, math.ceil(len(value.start_s) / MAX_ROWS))
    top = _axis_top(rows)
    names, colours = palette.in_order(rows.stages_ms), palette.colours(rows.stages_ms)
    starts, breaks = _with_breaks(rows)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "name": label_text(wording.label(name)),
            "x": starts,
            "y": rounded(_broken(rows.stages_ms[name], breaks)),
            "stackgroup": "stages",
            "mode": "lines",
            "line": {"width": 0, "shape": "hv", "color": colours[name]},
            "fillcolor": colours[name],
            "hovertemplate": "%{y:.3~g} ms",
        }
        for name in names
    ]
    within, beyond = _slowest(rows, top)
    if rows.steps_per_row > 1:
        data.append(
            _markers("slowest of its row", within, symbol="line-ew", size=6, colour=GREY)
            | {"hovertemplate": "%{y:.4~g} ms"}
        )
    data += _tall(beyond, top)
    layout = chart_layout("seconds since the first step", "ms per step", height=300)
    layout["yaxis"]["range"] = [0, top]
    layout["xaxis"]["range"] = [starts[0], starts[-1]]
    layout["hovermode"] = "x unified"
    layout["showlegend"] = True
    return Chart({"data": data, "layout": layout}, _timeline_note(rows, steps, len(beyond[0]), top))


def histogram(value: Histogram, steps: StepFacts) -> Chart | None:
    """How step times are distributed, with the median and the 5th and 95th percentile."""
    if sum(value.counts) < FEW_STEPS or len(value.edges_ms) < 2:
        return None
    edges, counts, below, beyond = _visible_bins(value, steps)
    widths = [right - left for left, right in pairwise(edges)]
    uneven = max(widths) > 1.5 * min(widths) and edges[0] > 0
    data = [
        {
            "type": "scatter",
            "name": "steps",
            "x": rounded(edges),
            "y": [*counts, counts[-1]],
            "mode": "lines",
            "line": {"shape": "hv", "width": 1, "color": BLUE},
            "fill": "tozeroy",
            "fillcolor": "rgba(42,143,209,0.35)",
            "hovertemplate": "%{y:,} steps from %{x:.4~g} ms<extra></extra>",
        }
    ]
    layout = chart_layout("ms per step", "steps", height=240)
    if uneven:
        layout["xaxis"]["type"] = "log"
    layout["yaxis"]["rangemode"] = "tozero"
    layout["hovermode"] = "x"
    layout["margin"]["t"] = 34
    layout["shapes"], layout["annotations"] = _percentiles(steps, uneven)
    note = ""
    if beyond or below:
        slowest = f", the slowest in the bin up to {wording.ms(value.edges_ms[-1])}" if beyond else ""
        whose = wording.plural(beyond + below, "step")
        verb = "lies" if beyond + below == 1 else "lie"
        note = f"{whose} of {wording.count(sum(value.counts))} {verb} outside the axis{slowest}."
    return Chart({"data": data, "layout": layout}, note)


def memory(value: MemoryFacts) -> Chart | None:
    """Memory of the process, and of its device, over time."""
    if len(value.timeline) < 2:
        return None
    stride = math.ceil(len(value.timeline) / MAX_MEMORY_POINTS)
    groups = [value.timeline[index : index + stride] for index in range(0, len(value.timeline), stride)]
    times = rounded([group[0].time_s for group in groups])
    series: list[tuple[str, str, Sequence[float | None]]] = [
        ("process (RSS)", BLUE, [max(sample.rss_bytes for sample in group) for group in groups])
    ]
    device = [
        max((sample.device_bytes for sample in group if sample.device_bytes is not None), default=None)
        for group in groups
    ]
    if any(size is not None for size in device):
        series.append(("device (allocated)", VERMILLION, device))
    highest = max(size for _, _, sizes in series for size in sizes if size is not None)
    unit, scale = ("GiB", 1024**3) if highest >= 1024**3 else ("MiB", 1024**2)
    data = [
        {
            "type": "scatter",
            "name": name,
            "x": times,
            "y": rounded([None if size is None else size / scale for size in sizes]),
            "mode": "lines",
            "line": {"width": 1.6, "color": colour, "dash": "solid" if colour == BLUE else "dash"},
            "hovertemplate": f"%{{y:.4~g}} {unit}",
        }
        for name, colour, sizes in series
    ]
    layout = chart_layout("seconds since the process began", unit, height=240)
    layout["yaxis"]["rangemode"] = "tozero"
    layout["hovermode"] = "x unified"
    layout["showlegend"] = len(data) > 1
    note = f"Each point is the largest of {stride} readings." if stride > 1 else ""
    return Chart({"data": data, "layout": layout}, note)


def _fold(value: Timeline, factor: int) -> Timeline:
    """The same timeline in fewer rows: means of means, the slowest of the slowest."""
    if factor <= 1:
        return value
    cuts = range(0, len(value.start_s), factor)

    def means(row: Sequence[float]) -> tuple[float, ...]:
        return tuple(math.fsum(row[cut : cut + factor]) / len(row[cut : cut + factor]) for cut in cuts)

    return Timeline(
        value.steps_per_row * factor,
        tuple(value.start_s[cut] for cut in cuts),
        means(value.wall_ms),
        tuple(max(value.max_ms[cut : cut + factor]) for cut in cuts),
        {name: means(row) for name, row in value.stages_ms.items()},
    )


def _axis_top(rows: Timeline) -> float:
    """High enough for all rows but the most extreme, so that one stall does not flatten the run."""
    walls, slowest = sorted(rows.wall_ms), sorted(rows.max_ms)
    often = min(slowest[int(0.9 * (len(slowest) - 1))], 3 * walls[len(walls) // 2])
    usual = max(walls[int(0.99 * (len(walls) - 1))], often)
    return 1.1 * (slowest[-1] if slowest[-1] <= 1.6 * usual else 1.25 * usual)


def _with_breaks(rows: Timeline) -> tuple[list[float], list[int]]:
    """Starts of rows, with the end of a row added where no step followed at once, and the last row's end."""
    starts: list[float] = []
    breaks = []
    extent = rows.start_s[-1] - rows.start_s[0]
    for index, start in enumerate(rows.start_s):
        starts.append(start)
        end = start + rows.wall_ms[index] * rows.steps_per_row / 1000
        following = rows.start_s[index + 1] if index + 1 < len(rows.start_s) else math.inf
        if following - end > max(0.004 * extent, 0.5 * (end - start)):
            starts.append(end)
            breaks.append(index)
    return rounded(starts, 6), breaks


def _broken(row: Sequence[float], breaks: Sequence[int]) -> list[float]:
    """The row's values with a 0 where a break was put in."""
    after = set(breaks)
    values: list[float] = []
    for index, value in enumerate(row):
        values.append(value)
        if index in after:
            values.append(0.0)
    return values


Points = tuple[list[float], list[float]]


def _slowest(rows: Timeline, top: float) -> tuple[Points, Points]:
    """Each row's slowest step: those that the axis holds, and those above it."""
    pairs = list(zip(rows.start_s, rows.max_ms, strict=True))
    within = [pair for pair in pairs if pair[1] <= top]
    beyond = [pair for pair in pairs if pair[1] > top]
    return ([x for x, _ in within], [y for _, y in within]), ([x for x, _ in beyond], [y for _, y in beyond])


def _markers(name: str, points: Points, symbol: str, size: int, colour: str) -> dict[str, Any]:
    line = {"width": 1.2, "color": colour}
    return {
        "type": "scatter",
        "name": name,
        "x": rounded(points[0], 6),
        "y": rounded(points[1]),
        "mode": "markers",
        "marker": {"symbol": symbol, "size": size, "color": colour, "line": line},
    }


def _tall(beyond: Points, top: float) -> list[dict[str, Any]]:
    """Steps that the axis does not hold, as triangles at its top that say their height."""
    starts, heights = beyond
    if not starts:
        return []
    at_the_top = (starts, [top * 0.975] * len(starts))
    trace = _markers("beyond the axis", at_the_top, symbol="triangle-up", size=8, colour=VERMILLION)
    return [trace | {"text": [wording.ms(height) for height in heights], "hovertemplate": "%{text}"}]


def _timeline_note(rows: Timeline, steps: StepFacts, beyond: int, top: float) -> str:
    covered = len(rows.start_s) * rows.steps_per_row
    shown = wording.plural(steps.count, "step")
    if covered < steps.count:
        shown = f"{wording.count(covered)} of {shown}"
    if rows.steps_per_row > 1:
        each = wording.count(rows.steps_per_row)
        note = f"{shown}; each column is the mean of {each} steps in a row, each dash their slowest."
    else:
        note = f"{shown}, each drawn."
    if beyond:
        what = wording.plural(beyond, "column" if rows.steps_per_row > 1 else "step")
        verb = "reaches" if beyond == 1 else "reach"
        note += f" ▲ {what} {verb} above {wording.ms(top)}, up to {wording.ms(max(rows.max_ms))}."
    return note


def _visible_bins(value: Histogram, steps: StepFacts) -> tuple[list[float], list[int], int, int]:
    """Edges and counts to draw, and how many steps lie below and beyond them."""
    spread = max(steps.p95_ms - steps.p5_ms, 0.02 * steps.median_ms)
    low, high = steps.p5_ms - 1.5 * spread, steps.p95_ms + 3 * spread
    edges, counts = value.edges_ms, value.counts
    shown = [index for index in range(len(counts)) if edges[index + 1] > low and edges[index] < high]
    filled = [index for index in shown if counts[index]]
    filled = filled or [index for index, number in enumerate(counts) if number]
    first, last = filled[0], filled[-1] + 1
    merge = math.ceil((last - first) / MAX_BINS)
    cuts = list(range(first, last, merge))
    merged = [sum(counts[cut : min(cut + merge, last)]) for cut in cuts]
    return [*(edges[cut] for cut in cuts), edges[last]], merged, sum(counts[:first]), sum(counts[last:])


def _percentiles(steps: StepFacts, logarithmic: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    marks = [
        ("5 %", steps.p5_ms, "dot", 1),
        ("median", steps.median_ms, "solid", 2),
        ("95 %", steps.p95_ms, "dot", 1),
    ]
    close = steps.p95_ms - steps.p5_ms < 1e-9
    shapes, annotations = [], []
    for (name, value, dash, width), anchor in zip(marks, ("right", "center", "left"), strict=True):
        if close and name != "median":
            continue
        line = {"color": GREY, "width": width, "dash": dash}
        across = {"x0": value, "x1": value, "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append({"type": "line", "line": line} | across)
        annotations.append(
            {
                "x": math.log10(value) if logarithmic and value > 0 else value,
                "y": 1.0 if name == "median" else 0.86,
                "yref": "paper",
                "yanchor": "bottom" if name == "median" else "middle",
                "xanchor": anchor,
                "text": f"{name} {wording.ms(value)}",
                "showarrow": False,
                "font": {"size": 12},
                "xshift": {"right": -4, "left": 4}.get(anchor, 0),
            }
        )
    return shapes, annotations


def chart_layout(x_title: str, y_title: str, height: int) -> dict[str, Any]:
    """What all our charts share."""
    axis: dict[str, Any] = {"showgrid": True, "zeroline": False, "automargin": True}
    axis |= {"ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)"}
    return {
        "height": height,
        "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12},
        "showlegend": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "xaxis": axis | {"title": {"text": x_title, "standoff": 8}, "showgrid": False},
        "yaxis": axis | {"title": {"text": y_title, "standoff": 8}},
    }


def rounded(values: Sequence[float | None], digits: int = 5) -> list[Any]:
    """Numbers with so many significant digits: the file stays small."""
    return [float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None for value in values]
