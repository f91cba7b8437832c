"""A run's result in one screenful of a terminal.

In:  a `Result`, and where its report lies.
Out: lines on a rich console; the same words with and without colour, and at any width from 60 on.
     Text from the run is never read as markup and can't steer the terminal.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import RanksFacts
from profiler.report import palette, wording
from profiler.report.device.section import busy, idle_shares
from profiler.report.ranks.section import alarm, mismatched
from profiler.report.ranks.section import sentences as ranks_sentences
from profiler.report.runs import RunLine
from profiler.report.summary import notices
from profiler.report.wording import printable
from profiler.rules.base import Finding, Severity
from profiler.rules.verdict import Result

WIDEST = 110
CODE_LINES = 6
NAME_WIDTH = 24
OTHER_FINDINGS = 4
SEVERITY_STYLES = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.INFO: "bold green",
}


def print_result(result: Result, console: Console, report: Path | None = None) -> None:
    """Show the result on the console. `report` is the HTML file that says more, where one was written."""
    width = min(console.width, WIDEST)
    facts, findings = result.facts, result.judgement.findings
    blocks: list[RenderableType] = [_headline(facts), _verdict(result)]
    if facts.stages and facts.steps is not None:
        blocks += ["", _step(facts, width, ascii_only=console.options.ascii_only)]
    if facts.device is not None:
        blocks += ["", _device(facts.device)]
    if facts.ranks is not None:
        blocks += ["", _ranks(facts.ranks, facts.root)]
    if findings:
        blocks += ["", top_finding(findings[0], facts)]
    blocks += ["", _rest(result, report)]
    console.print(Padding(Group(*blocks), (1, 0, 1, 1)), width=width, highlight=False, markup=False)


def _headline(facts: Facts) -> Text:
    run = facts.run
    parts = [f"exit code {run.exit_code}"] if run.exit_code else []
    if run.signal:
        parts = [f"ended by {printable(run.signal)}"]
    if facts.steps is not None:
        parts.append(f"{wording.plural(facts.steps.count, 'step')} in {wording.seconds(run.duration_s)}")
    else:
        parts.append(wording.seconds(run.duration_s))
    parts += [printable(facts.machine.device), printable(shlex.join(run.command)) or printable(run.name)]
    return Text.assemble(("prof  ", "bold"), (" · ".join(parts), "dim"), no_wrap=True, overflow="ellipsis")


def _verdict(result: Result) -> RenderableType:
    verdict = result.judgement.verdict
    lines = [
        Text.assemble(
            (verdict.bottleneck.value, SEVERITY_STYLES[verdict.severity]),
            ("  " + printable(verdict.summary), "bold"),
        )
    ]
    host = wording.host_times_note(result.facts)
    lines += [Text(f"note: {printable(text)}", style="yellow") for text in ([host] if host else [])]
    lines += [Text(f"note: {printable(text)}", style="yellow") for text in notices(result.facts)]
    return Group(*lines)


def _step(facts: Facts, width: int, ascii_only: bool) -> RenderableType:
    """The step as one bar, broken where its stages begin, so that it reads without colour too."""
    assert facts.steps is not None
    steps = facts.steps
    title = Text.assemble(
        (f"One step{wording.of_rank(facts)} {wording.ms(steps.median_ms)}", "bold"),
        (f" median, 5{wording.TO}95 % of steps {wording.ms_range(steps.p5_ms, steps.p95_ms)}", "dim"),
        (f"; stages are means, together {wording.ms(steps.mean_ms)}", "dim"),
    )
    names = [name for name in palette.in_order(facts.stages) if facts.stages[name].mean_ms > 0]
    colours = palette.colours(facts.stages)
    labels = {name: _shortened(printable(wording.label(name))) for name in names}
    named = max(map(len, labels.values()), default=0)
    bar_width = max(width - named - 27, 12)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    before = 0.0
    for name in names:
        stage = facts.stages[name]
        first, last = round(before * bar_width), round((before + stage.share) * bar_width)
        before += stage.share
        block = ("#" if ascii_only else "█") * (last - first) or ("|" if ascii_only else "▏")
        table.add_row(
            labels[name],
            wording.ms(stage.mean_ms),
            wording.share(stage.share),
            Text.assemble(" " * min(first, bar_width - 1), (block, colours[name])),
        )
    return Group(title, table)


def _device(device: DeviceFacts) -> Text:
    """How busy the device was, why it was not, and what of its collectives nothing hid: two lines at most."""
    text = Text.assemble(("Device  ", "bold"), f"{busy(device)}.")
    shares = [f"{cause.replace('_', ' ')} {wording.share(part)}" for cause, part in idle_shares(device)]
    if shares:
        text.append(f" Idle in it: {', '.join(shares)}.")
    if device.collectives_ms:
        exposed = wording.ms(device.collectives_exposed_ms)
        text.append(f" Collectives {wording.ms(device.collectives_ms)} in all, {exposed} of it exposed.")
    return text


def _ranks(ranks: RanksFacts, root: str) -> Text:
    """The job in a few sentences, what stopped it first."""
    stopped = " ".join(filter(None, (alarm(ranks), mismatched(ranks, root))))
    text = Text.assemble(("Ranks  ", "bold"), (f"{printable(stopped)} " if stopped else "", "bold red"))
    text.append(printable(" ".join(ranks_sentences(ranks))))
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= NAME_WIDTH else f"{text[: NAME_WIDTH - 1]}…"


def _labelled() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=len("Not measured"))
    table.add_column(overflow="fold")
    return table


def top_finding(finding: Finding, facts: Facts) -> RenderableType:
    """The finding that matters most, with the code to paste."""
    where = wording.fix_place(finding, facts.root)
    table = _labelled()
    table.add_row("Finding", Text.assemble((printable(finding.title), "bold"), (f"  {printable(finding.rule)}", "dim")))
    table.add_row("Why", printable(finding.why))
    place = (f"  {printable(where)}" if where else "", "cyan")
    table.add_row("Change", Text.assemble(printable(finding.fix.summary), place))
    code = [printable(line.expandtabs(4)) for line in finding.fix.code.strip("\n").splitlines()]
    shown = code if len(code) <= CODE_LINES else code[: CODE_LINES - 1]
    lines = [f"│ {line}" for line in shown]
    if len(code) > len(shown):
        lines.append(f"│ … {wording.plural(len(code) - len(shown), 'more line')} in the report")
    if lines:
        table.add_row("", Text("\n".join(lines), overflow="fold"))
    if finding.gain is not None:
        table.add_row("Gain", Text(wording.gain(finding.gain), style="bold"))
    return table


def _rest(result: Result, report: Path | None) -> RenderableType:
    facts, judgement = result.facts, result.judgement
    table = _labelled()
    _add_others(table, judgement.findings, facts.root)
    if judgement.failures:
        rules = ", ".join(printable(rule) for rule, _ in judgement.failures)
        table.add_row("Failed", f"{rules}: an error in the rule, so nothing was judged by it")
    if facts.not_measured:
        table.add_row("Not measured", ", ".join(printable(wording.label(name)) for name in facts.not_measured))
    cost = wording.overhead(facts)
    if cost:
        table.add_row("Cost of prof", cost)
    if report is not None:
        table.add_row("Report", Text(printable(str(report)), style="underline", overflow="fold"))
    return table


def other_findings(findings: Sequence[Finding], root: str) -> RenderableType:
    """What else was found, a line each."""
    table = _labelled()
    _add_others(table, findings, root)
    return table


def _add_others(table: Table, findings: Sequence[Finding], root: str) -> None:
    for index, finding in enumerate(findings[1 : 1 + OTHER_FINDINGS]):
        where = wording.fix_place(finding, root)
        table.add_row(
            "" if index else "Also found",
            Text.assemble(
                (finding.severity.value, SEVERITY_STYLES[finding.severity]),
                "  " + printable(finding.title),
                (f"  {printable(where)}" if where else "", "cyan"),
            ),
        )
    left = len(findings) - 1 - OTHER_FINDINGS
    if left > 0:
        table.add_row("", f"and {wording.plural(left, 'more finding')} in the report")


def print_runs(runs: Sequence[RunLine], console: Console) -> None:
    """Show a list of runs, a row each; the verdict's sentence where there is room for it."""
    sentence = console.width >= WIDEST
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", width=min(console.width, WIDEST))
    table.add_column("run", no_wrap=True, overflow="ellipsis", min_width=12)
    table.add_column("when", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("verdict", ratio=1)
    for run in runs:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_unix_s))
        told = (
            Text(printable(run.problem), style="yellow")
            if run.problem is not None
            else Text.assemble(
                (printable(run.bottleneck or ""), "bold"),
                f"  {printable(run.verdict or '')}" if sentence else "",
            )
        )
        table.add_row(
            Text(printable(run.name)),
            when,
            "" if run.steps is None else wording.count(run.steps),
            "" if run.median_ms is None else wording.ms(run.median_ms),
            told,
        )
    console.print(table)
