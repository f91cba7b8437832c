"""`prof list [DIR]`: the runs that were recorded."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
def command(directory: Path | None, as_json: bool) -> None:
    """Show the runs under DIR (./reports by default), newest first.

    \b
    prof list
    prof list --json | jq '.[0].verdict'
    """
    from profiler.config import load_config
    from profiler.report.runs import list_runs

    directory = directory or Path(load_config(Path.cwd()).output)
    runs = list_runs(directory)
    if as_json:
        click.echo(json.dumps([asdict(run) for run in runs], indent=1))
        return
    if not runs:
        click.echo(f"No runs under {directory}: record one with `prof attach train.py`.")
        return
    from rich.console import Console

    from profiler.report.terminal import print_runs

    print_runs(runs, Console())
