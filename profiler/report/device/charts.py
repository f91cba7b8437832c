"""The device over its steps, and its memory, for plotly.js.

In:  `DeviceFacts`.
Out: a `Chart` each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from profiler.analysis.device_facts import IDLE_CAUSES, DeviceFacts
from profiler.report import palette, wording
from profiler.report.charts import BLUE, Chart, chart_layout, rounded
from profiler.report.device import names

MAX_STEPS = 240
MAX_POINTS = 600


def device_charts(device: DeviceFacts | None) -> dict[str, Chart | None]:
    """The charts that a device's facts have figures for."""
    if device is None:
        return {}
    return {"device_steps": steps(device), "device_memory": memory(device)}


def steps(device: DeviceFacts) -> Chart | None:
    """Busy and idle milliseconds of each step, stacked; None where there are fewer than two steps."""
    if len(device.steps) < 2:
        return None
    stride = math.ceil(len(device.steps) / MAX_STEPS)
    groups = [device.steps[first : first + stride] for first in range(0, len(device.steps), stride)]
    x = [group[0].index for group in groups]
    rows: list[tuple[str, str, list[float]]] = [
        ("busy", palette.DEVICE["kernels"], [_mean(it.busy_ms for it in group) for group in groups])
    ]
    if device.idle_ms is not None:
        for cause in IDLE_CAUSES:
            values = [_mean(it.idle_ms.get(cause, 0.0) for it in group) for group in groups]
            if any(values):
                rows.append((names.idle(cause), palette.DEVICE[cause], values))
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": name,
            "x": x,
            "y": rounded(values, 4),
            "marker": {"color": colour, "line": {"width": 0}},
            "hovertemplate": "%{y:.3~g} ms",
        }
        for name, colour, values in rows
    ]
    layout = chart_layout("step", "ms", height=260)
    layout["barmode"] = "stack"
    layout["bargap"] = 0.25 if len(groups) < 30 else 0.0
    layout["hovermode"] = "x unified"
    layout["showlegend"] = True
    if len(groups) < 30:
        layout["xaxis"] |= {"tickmode": "array", "tickvals": x, "ticktext": [f"{index:,}" for index in x]}
    return Chart({"data": data, "layout": layout}, _note(device, stride))


def memory(device: DeviceFacts) -> Chart | None:
    """Bytes that were allocated over the span; None where they were not recorded."""
    line = device.memory_timeline
    if len(line) < 2:
        return None
    stride = math.ceil(len(line) / MAX_POINTS)
    fullest = [max(line[first : first + stride], key=lambda point: point[1]) for first in range(0, len(line), stride)]
    highest = max(size for _, size in fullest)
    scale, unit = (1024**3, "GiB") if highest >= 1024**3 else (1024**2, "MiB")
    data = [
        {
            "type": "scatter",
            "name": "allocated",
            "x": rounded([at for at, _ in fullest], 6),
            "y": rounded([size / scale for _, size in fullest]),
            "mode": "lines",
            "line": {"width": 1.6, "color": BLUE, "shape": "hv"},
            "fill": "tozeroy",
            "fillcolor": "rgba(42,143,209,0.25)",
            "hovertemplate": f"%{{y:.4~g}} {unit}<extra></extra>",
        }
    ]
    layout = chart_layout("ms since the recording began", unit, height=220)
    layout["yaxis"]["rangemode"] = "tozero"
    layout["hovermode"] = "x"
    note = f"Each point is the fullest of {stride} readings." if stride > 1 else ""
    return Chart({"data": data, "layout": layout}, note)


def _mean(values: Iterable[float]) -> float:
    given = list(values)
    return math.fsum(given) / len(given)


def _note(device: DeviceFacts, stride: int) -> str:
    shown = wording.plural(len(device.steps), "step")
    if stride > 1:
        return f"{shown}; each bar is the mean of {wording.count(stride)} in a row."
    height = "; a bar's height is the step's time on the host" if device.idle_ms is not None else ""
    return f"{shown}, each drawn{height}."
