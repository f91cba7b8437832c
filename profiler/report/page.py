"""What every page of ours is made with: templates, filters, the charts' library, and the policy that guards it.

In:  what a template shows.
Out: text. Everything from a run is untrusted and escaped: by jinja in the page, by `embedded_json` in data, by
     `charts.label_text` in figures; a content security policy forbids all scripts but ours, and all traffic.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import profiler
from profiler.analysis.facts import LineTime
from profiler.analysis.merged_lines import by_line
from profiler.report import wording
from profiler.report.charts import Chart

HERE = Path(__file__).parent
SEVERITY_WORDS = {"critical": "critical", "warning": "worth fixing", "info": "note"}
MAX_LINES = 12


def page_values(figures: Mapping[str, Chart]) -> dict[str, Any]:
    """What a page's template needs whatever it shows: style, script, policy and charts."""
    script = (HERE / "templates" / "report.js").read_text(encoding="utf-8")
    return {
        "charts": figures,
        "chart_json": embedded_json({name: chart.figure for name, chart in figures.items()}),
        "style": Markup((HERE / "templates" / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "policy": _policy(script),
        "plotly": _plotly() if figures else "",
        "version": profiler.__version__,
        "max_lines": MAX_LINES,
    }


def embedded_json(value: Any) -> Markup:
    """JSON for the inside of a `<script>` element: nothing in it can end the element or start another."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def environment() -> Environment:
    """Templates, with the filters and words that they use."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ms": wording.ms,
        "share": wording.share,
        "bytes": wording.byte_size,
        "seconds": wording.seconds,
        "count": wording.count,
        "label": wording.label,
        "significant": wording.significant,
        "value": _setting_text,
        "unbroken": wording.unbroken,
    }
    environment.globals |= {
        "place": wording.place,
        "fix_place": wording.fix_place,
        "ms_range": wording.ms_range,
        "of_rank": wording.of_rank,
        "times": wording.times,
        "plural": wording.plural,
        "evidence": wording.evidence,
        "shown_lines": shown_lines,
        "severity_words": SEVERITY_WORDS,
    }
    return environment


@cache
def _plotly() -> str:
    return base64.b64encode((HERE / "assets" / "plotly-basic.min.js.gz").read_bytes()).decode("ascii")


def _policy(script: str) -> str:
    """Only our own script, and plotly.js which it inflates into a blob; no request of any kind."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}' blob:; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def shown_lines(lines: tuple[LineTime, ...]) -> list[tuple[LineTime, float, int]]:
    """The lines worth showing: the width of their bar in percent of the longest, and how many functions ran there."""
    whole = by_line(lines)
    shown = [line for line in whole if line.share_of_stage >= 0.005][:MAX_LINES] or whole[:3]
    functions = Counter((line.site.file, line.site.line) for line in lines)
    longest = max((line.ms_per_step for line in shown), default=0.0) or 1.0
    return [
        (line, round(100 * line.ms_per_step / longest, 1), functions[line.site.file, line.site.line]) for line in shown
    ]


def _setting_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return wording.significant(value, 6).rstrip("0").rstrip(".") if value else "0"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_setting_text(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(_setting_text(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
