"""A plan as one HTML file that needs nothing else, in the style of a run's report.

In:  a `Plan`, its alternatives, what the search found.
Out: the file's text. Names come from users' scripts and files: jinja escapes them, and a content security policy
     forbids all scripts but ours.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import profiler
from profiler.planner.alternatives import Alternative
from profiler.planner.plan import Plan
from profiler.planner.quantity import bytes_text, count_text, money_text
from profiler.planner.remedy import Remedy
from profiler.planner.scaling import cost_table, optimal_tokens
from profiler.planner.search import Findings, layout_text
from profiler.report.page import embedded_json
from profiler.report.palette import CATEGORIES, ink
from profiler.report.plan import wording
from profiler.report.plan.figures import figures

REPORT = Path(__file__).parents[1]
CHIPS = {"yes": ("fits", "info"), "no": ("does not fit", "critical"), "unsure": ("may fit", "warning")}


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the memory bar."""

    name: str
    text: str
    share: float  # of what is drawn
    colour: str
    hatch: int

    @property
    def ink(self) -> str:
        """Colour of text on the piece."""
        return ink(self.colour)


def page(plan: Plan, others: list[Alternative], findings: Findings | None, solution: Remedy | None = None) -> str:
    """The page of a plan."""
    charts = figures(plan)
    script = (REPORT / "templates" / "report.js").read_text(encoding="utf-8")
    parts, free = memory_parts(plan)
    word, tone = CHIPS[plan.memory.fits]
    model = plan.request.model
    return (
        _environment()
        .get_template("plan.html.j2")
        .render(
            title=wording.title(plan),
            model_sentence=wording.model_sentence(plan),
            layout=layout_text(plan.request) if plan.layout else None,
            batch=int(plan.layout.samples_per_step) if plan.layout else None,
            chip=word if model else None,
            tone=tone,
            answers=wording.answers(plan, solution),
            least=wording.least_sentence(plan),
            utilisation=wording.utilisation_sentence(plan),
            parts=parts,
            free=free,
            memory_rows=wording.memory_rows(plan),
            step_title=wording.step_title(plan),
            term_rows=wording.term_rows(plan),
            others=[wording.alternative_cells(plan, other) for other in others],
            best=others[0] if others else None,
            best_cells=wording.alternative_cells(plan, others[0]) if others else None,
            findings=findings,
            found=[(layout_text(each.request), each.gives_up) for each in findings.found] if findings else [],
            assumptions=plan.assumptions,
            costs=cost_table(),
            optimal=count_text(optimal_tokens(model.parameters)) if model and model.unit == "token" else None,
            charts=charts,
            chart_json=embedded_json({name: chart.figure for name, chart in charts.items()}),
            style=Markup((REPORT / "templates" / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            policy=_policy(script),
            plotly=_plotly(),
            version=profiler.__version__,
        )
    )


def memory_parts(plan: Plan) -> tuple[list[Part], str | None]:
    """The pieces of one device's memory at the high estimate, and what is left free."""
    memory = plan.memory
    high = memory.per_device[1]
    if high is None:
        return [], None
    whole = max(high, memory.device_bytes)
    named = [(name, value or 0.0) for name, value in memory.device_parts.items()]
    named.append(("buffers, context, slack", memory.buffers[1] or 0.0))
    parts = [
        Part(name, bytes_text(value), value / whole, CATEGORIES[index], index)
        for index, (name, value) in enumerate(named)
        if value > 0
    ]
    free = memory.device_bytes - high
    if free > 0:
        parts.append(Part("free", bytes_text(free), free / whole, "#d9dde3", 2))
    over = None if free >= 0 else f"{bytes_text(-free)} more than the device's {bytes_text(memory.device_bytes)}"
    return parts, over


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(REPORT / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"money": money_text, "count": count_text}
    return environment


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src 'sha256-{digest}' blob:"


def _plotly() -> str:
    return base64.b64encode((REPORT / "assets" / "plotly-basic.min.js.gz").read_bytes()).decode("ascii")
