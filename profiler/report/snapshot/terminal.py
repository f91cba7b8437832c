"""A snapshot in a screenful of terminal.

In:  an `Explained` snapshot, and where its page lies.
Out: lines on a rich console. Text from the file is never read as markup and can't steer the terminal.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from profiler.analysis.snapshot_facts import DeviceMemory
from profiler.report import palette, wording
from profiler.report.snapshot import wording as words
from profiler.report.snapshot.pipeline import Explained
from profiler.report.terminal import SEVERITY_STYLES, WIDEST, other_findings, top_finding
from profiler.report.wording import byte_size, printable, share

LINES = 8
DEVICES = 4
NARROW = 80  # columns below which the stage is left out


def print_snapshot(explained: Explained, console: Console, page: Path | None = None) -> None:
    """Show what held the memory."""
    width = min(console.width, WIDEST)
    devices = sorted(explained.snapshot.devices, key=lambda it: (not it.ooms, -it.held_bytes))
    findings = explained.judgement.findings
    blocks: list[RenderableType] = [
        Text.assemble(("prof  ", "bold"), (f"memory {printable(explained.snapshot.source)}", "dim")),
        _headline(explained),
        *(Text(f"note: {printable(notice)}", style="yellow") for notice in explained.snapshot.notices),
    ]
    for device in devices[:DEVICES]:
        blocks += ["", _device(device, explained.facts.root, width, console.options.ascii_only)]
    if len(devices) > DEVICES:
        blocks += ["", Text(f"and {wording.plural(len(devices) - DEVICES, 'more device')}, in the page", style="dim")]
    if findings:
        blocks += ["", top_finding(findings[0], explained.facts), other_findings(findings, explained.facts.root)]
    if page is not None:
        blocks += ["", Text.assemble(("Page  ", "dim"), (printable(str(page)), "underline"))]
    console.print(Padding(Group(*blocks), (1, 0, 1, 1)), width=width, highlight=False, markup=False)


def _headline(explained: Explained) -> Text:
    word, _ = words.chip(explained)
    findings = explained.judgement.findings
    style = SEVERITY_STYLES[findings[0].severity] if findings else "bold"
    return Text.assemble((word, style), ("  " + printable(words.headline(explained)), "bold"))


def _device(device: DeviceMemory, root: str, width: int, ascii_only: bool) -> RenderableType:
    title = Text.assemble(
        (f"Device {device.device}: {byte_size(device.held_bytes)} held ", "bold"),
        (words.moment(device), "dim"),
        (f", {byte_size(device.layout.reserved_bytes)} reserved", "dim"),
    )
    return Group(title, _categories(device, width, ascii_only), "", _lines(device, root, width), _layout(device))


def _categories(device: DeviceMemory, width: int, ascii_only: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    bar_width = max(width - 55, 10)
    for name, held in device.categories_bytes.items():
        if not held:
            continue
        part = held / (device.held_bytes or 1)
        block = ("#" if ascii_only else "█") * round(part * bar_width) or ("|" if ascii_only else "▏")
        table.add_row(words.category(name), byte_size(held), share(part), Text(block, style=palette.HELD[name]))
    return table


def _lines(device: DeviceMemory, root: str, width: int) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("held", justify="right", no_wrap=True)
    table.add_column("your line", overflow="fold", min_width=16)
    table.add_column("for")
    wide = width >= NARROW
    if wide:
        table.add_column("made in", no_wrap=True)
    for holding in [it for it in device.holdings if it.bytes][:LINES]:
        place, function = words.line(holding, root)
        table.add_row(
            byte_size(holding.bytes),
            Text(printable(place or function or "no stack"), style="cyan" if place else "dim"),
            words.category(holding.category),
            *([words.stage(holding.stage)] if wide else []),
        )
    left = len(device.holdings) - LINES
    return Group(table, Text(f"and {wording.plural(left, 'more line')}", style="dim")) if left > 0 else table


def _layout(device: DeviceMemory) -> Text:
    layout = device.layout
    if not layout.reserved_bytes:
        return Text("nothing reserved", style="dim")
    text = f"{share(layout.free_bytes / layout.reserved_bytes)} of what was reserved was free"
    if layout.free_bytes:
        text += f", the largest piece {byte_size(layout.largest_free_bytes)}"
    return Text(text, style="dim")
