"""A plan as a screenful of terminal text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from profiler.planner.alternatives import Alternative
from profiler.planner.plan import Plan
from profiler.planner.remedy import Remedy
from profiler.planner.search import Findings, layout_text
from profiler.report.plan import wording

COLOURS = {"yes": "green", "no": "red", "unsure": "yellow"}


def print_plan(
    plan: Plan, others: list[Alternative], findings: Findings | None, console: Console, solution: Remedy | None = None
) -> None:
    """Write the plan to a console."""
    console.print(f"[bold]{escape(wording.title(plan))}[/]")
    for line in (wording.model_sentence(plan), _layout(plan)):
        if line:
            console.print(f"[dim]{escape(line)}[/]")
    console.print()
    for question, answer in wording.answers(plan, solution):
        colour = COLOURS[plan.memory.fits] if question == "Will it fit?" and plan.request.model else ""
        text = f"[{colour}]{escape(answer)}[/]" if colour else escape(answer)
        console.print(f"[bold]{question}[/] {text}")
    for sentence in (wording.least_sentence(plan), wording.utilisation_sentence(plan)):
        if sentence:
            console.print(escape(sentence))
    if rows := wording.memory_rows(plan):
        console.print(_table("Memory", ("", "one replica", "per device"), rows))
    if rows := wording.term_rows(plan):
        console.print(_table(wording.step_title(plan), ("", "time", "of the step"), rows))
    if others:
        console.print(f"\n[bold]Most useful change:[/] {escape(others[0].change)}")
        cells = [wording.alternative_cells(plan, other) for other in others]
        console.print(_table("If something changed", ("change", "memory", "time", "cost"), cells))
    if findings is not None and findings.found:
        rows_found = [(layout_text(found.request), found.gives_up) for found in findings.found]
        title = f"Best layouts of {findings.candidates:,} tried, {findings.fitting:,} of which fit"
        console.print(_table(title, ("layout", "gives up"), rows_found))
    console.print("\n[bold]Assumed[/]")
    for sentence in plan.assumptions:
        console.print(f"[dim]• {escape(sentence)}[/]")


def _layout(plan: Plan) -> str | None:
    if plan.layout is None:
        return None
    batch = f"global batch {int(plan.layout.samples_per_step):,}"
    return f"{layout_text(plan.request)}, {plan.request.optimizer}, {batch}"


def _table(title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    numbers = {"one replica", "per device", "time", "of the step", "cost"}
    for head in heads:
        table.add_column(head, justify="right" if head in numbers else "left", style="" if head else "bold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
