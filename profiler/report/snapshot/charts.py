"""Memory over the events of a snapshot, for plotly.js.

In:  `DeviceMemory`.
Out: a `Chart`: what was held, stacked by category, below what was reserved, with each failure marked.
"""

from __future__ import annotations

from typing import Any

from profiler.analysis.snapshot_facts import CATEGORIES, DeviceMemory, MemoryLine
from profiler.report import palette
from profiler.report.charts import GREY, VERMILLION, Chart, chart_layout, rounded
from profiler.report.snapshot.wording import category
from profiler.report.wording import byte_size, count, plural

UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


def memory_over_events(device: DeviceMemory) -> Chart | None:
    """The chart of one device; None where its events were not recorded."""
    line = device.line
    if line is None or len(line.event) < 2:
        return None
    highest = max([*line.held_bytes, *line.reserved_bytes, 1])
    scale, unit = next(((scale, unit) for scale, unit in UNITS if highest >= scale), (1, "B"))
    x: list[Any] = rounded(line.time_s, 7) if line.time_s else list(line.event)
    data = [
        {
            "type": "scatter",
            "name": category(name),
            "x": x,
            "y": rounded([held / scale for held in line.categories_bytes[name]], 4),
            "stackgroup": "held",
            "mode": "lines",
            "line": {"width": 0, "shape": "hv", "color": palette.HELD[name]},
            "fillcolor": palette.HELD[name],
            "hovertemplate": f"%{{y:.4~g}} {unit}",
        }
        for name in CATEGORIES
        if any(line.categories_bytes.get(name, ()))
    ]
    data.append(
        {
            "type": "scatter",
            "name": "reserved",
            "x": x,
            "y": rounded([held / scale for held in line.reserved_bytes], 4),
            "mode": "lines",
            "line": {"width": 1.5, "shape": "hv", "color": GREY, "dash": "dash"},
            "hovertemplate": f"%{{y:.4~g}} {unit}",
        }
    )
    if device.ooms and line.time_s:
        data.append(_failures(device, scale))
    layout = chart_layout("seconds since the first event" if line.time_s else "event", unit, height=300)
    layout["yaxis"]["rangemode"] = "tozero"
    layout["hovermode"] = "x unified"
    layout["showlegend"] = True
    return Chart({"data": data, "layout": layout}, _note(device, line))


def _failures(device: DeviceMemory, scale: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": "out of memory",
        "x": rounded([it.time_s for it in device.ooms], 7),
        "y": rounded([(it.held_bytes + it.requested_bytes) / scale for it in device.ooms], 4),
        "mode": "markers",
        "marker": {"symbol": "x", "size": 9, "color": VERMILLION},
        "text": [f"{byte_size(it.requested_bytes)} asked for" for it in device.ooms],
        "hovertemplate": "%{text}",
    }


def _note(device: DeviceMemory, line: MemoryLine) -> str:
    stride = -(-device.events // len(line.event))
    shown = f"{plural(device.events, 'event')}"
    if stride > 1:
        shown += f"; each point is the fullest moment of {count(stride)}"
    before = (
        "; what was held before the oldest event is drawn from the left edge on" if device.first_events_lost else ""
    )
    return f"{shown}{before}. Sizes as asked for; the allocator rounds them up."
