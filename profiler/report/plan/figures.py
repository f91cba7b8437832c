"""Figures of a plan for plotly.js, as plain dicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Any

from profiler.planner.plan import Plan
from profiler.planner.quantity import bytes_text
from profiler.planner.scaling import Milestone, dataset_growth, model_growth
from profiler.planner.sweep import STRATEGIES, Point, over_devices
from profiler.report.charts import FONT, Chart, label_text

COLOURS = {"ddp": "#d55e00", "zero1": "#e69f00", "zero2": "#56b4e9", "zero3": "#0072b2"}
DASHES = {"ddp": "solid", "zero1": "dash", "zero2": "dashdot", "zero3": "solid"}
SYMBOLS = {"ddp": "circle", "zero1": "square", "zero2": "diamond", "zero3": "triangle-up"}
LANDMARKS = {
    "BERT large, uncased", "GPT-2 1.5B", "GPT-3 175B", "PaLM 540B", "Llama 3.1 405B",
    "ResNet-152",
    "MNIST", "ImageNet-1k", "LAION-5B", "C4", "FineWeb", "BookCorpus",
}  # fmt: skip
GREY, BLUE, GREEN, VERMILLION = "#8a93a0", "#2a8fd1", "#009e73", "#d55e00"


def figures(plan: Plan) -> dict[str, Chart]:
    """The figures that this plan has figures for."""
    points = over_devices(plan)
    made = {
        "memory": _memory(plan, points),
        "time": _time(plan, points),
        "growth": _growth(plan),
        "data": _data_growth(),
    }
    return {name: chart for name, chart in made.items() if chart is not None}


def _memory(plan: Plan, points: Sequence[Point]) -> Chart | None:
    known = [point for point in points if any(value is not None for value in point.high_bytes.values())]
    if len(known) < 2:
        return None
    data: list[dict[str, Any]] = []
    for strategy in STRATEGIES:
        pairs = [(point.devices, value) for point in known if (value := point.high_bytes[strategy]) is not None]
        if pairs:
            data.append(_line(strategy, [x for x, _ in pairs], [y / 1e9 for _, y in pairs], strategy, "GB"))
    capacity = plan.request.device.memory_bytes / 1e9
    layout = _layout("devices", "GB per device, high estimate", log_y=True)
    _mark(layout, [value for trace in data for value in trace["y"]], [point.devices for point in known])
    layout["shapes"] = [_rule("y", capacity)]
    layout["annotations"] = [_note(f"{plan.request.device.name}: {bytes_text(capacity * 1e9)}", capacity)]
    highs = [value for point in known for value in point.high_bytes.values() if value is not None]
    return Chart(
        {"data": data, "layout": layout},
        f"Between {bytes_text(min(highs))} and {bytes_text(max(highs))}; below the line it surely fits. "
        "Other settings as planned.",
    )


def _time(plan: Plan, points: Sequence[Point]) -> Chart | None:
    timed = [point for point in points if point.days is not None]
    stepped = [point for point in points if point.step_s is not None]
    layout = _layout("devices", "days", log_y=True)
    if len(timed) >= 2:
        data = [_line("days", [each.devices for each in timed], [each.days for each in timed], "zero3", "days")]
        ideal = [timed[0].days * timed[0].devices / each.devices for each in timed if timed[0].days is not None]
        data.append(_ideal([each.devices for each in timed], ideal))
        _mark(layout, [each.days for each in timed if each.days is not None] + ideal, [each.devices for each in timed])
        return Chart(
            {"data": data, "layout": layout},
            "The dashed line is what the first point would give if devices cost no communication.",
        )
    if len(stepped) >= 2:
        layout["yaxis"]["title"]["text"] = "seconds a step"
        data = [_line("step", [each.devices for each in stepped], [each.step_s for each in stepped], "zero3", "s")]
        steps_s = [each.step_s for each in stepped if each.step_s is not None]
        _mark(layout, steps_s, [each.devices for each in stepped])
        return Chart({"data": data, "layout": layout}, "The global batch grows with the devices where none was given.")
    return None


def _growth(plan: Plan) -> Chart:
    model = plan.request.model
    today = date.today()
    now = today.year + today.timetuple().tm_yday / 366
    own = [Milestone(f"this plan: {model.name}", now, model.parameters, "parameters")] if model else []
    chart = _history(model_growth(), "parameters", BLUE)
    if own:
        chart.figure["data"].append(_dots(own, "this plan", VERMILLION, "star", 13))
    return chart


def _data_growth() -> Chart:
    growth = dataset_growth()
    figure = _history([each for each in growth if each.unit == "samples"], "samples or tokens", GREEN).figure
    figure["data"][0]["name"] = "samples"
    figure["layout"]["xaxis"]["dtick"] = 5
    figure["data"].append(_dots([each for each in growth if each.unit == "tokens"], "tokens", BLUE, "diamond", 8))
    return Chart(figure, "Data sets of the catalogue by year of publication.")


def _history(milestones: Sequence[Milestone], title: str, colour: str) -> Chart:
    layout = _layout("year", title, log_y=True)
    layout["yaxis"]["dtick"] = 1
    layout["xaxis"] |= {"type": "linear", "dtick": 2, "tickformat": "d"}
    years = [each.year for each in milestones]
    layout["xaxis"]["range"] = [min(years) - 2.5, max(date.today().year + 1.5, max(years) + 1)]
    layout["margin"]["t"] = 26
    note = "Models of the catalogue by date of publication, from its own figures."
    return Chart({"data": [_dots(milestones, title, colour, "circle", 8)], "layout": layout}, note)


def _dots(milestones: Sequence[Milestone], name: str, colour: str, symbol: str, size: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "textposition": "top center",
        "cliponaxis": False,
        "textfont": {"size": 10},
        "name": label_text(name),
        "x": [each.year for each in milestones],
        "y": [each.size for each in milestones],
        "text": [label_text(each.name) if each.name in LANDMARKS else "" for each in milestones],
        "hovertext": [label_text(each.name) for each in milestones],
        "marker": {"color": colour, "symbol": symbol, "size": size, "opacity": 0.8},
        "hovertemplate": "%{hovertext}: %{y:.3s}<extra></extra>",
    }


def _line(name: str, x: Sequence[float], y: Sequence[float | None], style: str, unit: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(x),
        "y": [None if value is None else float(f"{value:.4g}") for value in y],
        "line": {"color": COLOURS[style], "dash": DASHES[style], "width": 2},
        "marker": {"symbol": SYMBOLS[style], "size": 7},
        "hovertemplate": f"%{{x}} devices: %{{y:.3~g}} {unit}<extra>{name}</extra>",
    }


def _ideal(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "perfect scaling",
        "x": list(x),
        "y": list(y),
        "line": {"color": GREY, "dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
    }


def _rule(axis: str, at: float) -> dict[str, Any]:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": at, "y1": at,
        "line": {"color": GREY, "width": 1.5, "dash": "dot"},
    }  # fmt: skip


def _note(text: str, at: float) -> dict[str, Any]:
    return {
        "text": label_text(text), "xref": "paper", "x": 0.01, "xanchor": "left", "yref": "y", "y": math.log10(at),
        "yanchor": "bottom", "showarrow": False, "font": {"size": 11},
    }  # fmt: skip


def _mark(layout: dict[str, Any], values: Sequence[float], devices: Sequence[int]) -> None:
    """Ticks in full at 1, 2 and 5 of each power of ten, where the library would write their first digits alone."""
    low, high = min(values) / 2, max(values) * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    for axis, marks in (("yaxis", [tick for tick in ticks if low <= tick <= high]), ("xaxis", sorted(set(devices)))):
        shown = {"tickmode": "array", "tickvals": marks, "ticktext": [f"{mark:,.10g}" for mark in marks]}
        layout[axis] |= shown


def _layout(x_title: str, y_title: str, *, log_y: bool) -> dict[str, Any]:
    axis: dict[str, Any] = {"zeroline": False, "automargin": True, "ticks": "outside", "ticklen": 5}
    axis |= {"tickcolor": "rgba(0,0,0,0)", "exponentformat": "B"}
    return {
        "height": 300,
        "margin": {"l": 52, "r": 12, "t": 8, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12},
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "xaxis": axis | {"title": {"text": x_title, "standoff": 8}, "type": "log", "dtick": 1, "showgrid": False},
        "yaxis": axis
        | {"title": {"text": y_title, "standoff": 8}, "type": "log" if log_y else "linear", "dtick": "D2"},
    }
