"""`--export`: a typical and a slow step for a trace viewer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from profiler.analysis.facts import Facts

export_option = click.option(
    "--export",
    type=(click.Choice(["perfetto", "chrome"]), click.Path(path_type=Path, dir_okay=False)),
    metavar="perfetto|chrome FILE",
    help="Write a typical and a slow step for a trace viewer; both read the same format.",
)


def write_export(facts: Facts, to: tuple[str, Path] | None, name: str) -> None:
    """Write the steps, where that is asked for; stderr says what is left out. Raises ProfError."""
    if to is None:
        return
    from profiler.report.export.chrome import export_steps

    left_out = export_steps(facts, to[1], name)
    if left_out:
        click.echo(f"{to[1]} leaves out {left_out:,} spans, the shortest ones.", err=True)
