"""`prof merge DIR…`: one report of a job whose hosts wrote folders of their own."""

from __future__ import annotations

from pathlib import Path

import click

from profiler.cli.engine import chosen_engine, engine_options


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="DIR...")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the merged run.")
@click.option(
    "--flight-recorder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Dumps of torch's flight recorder, where they are not found by themselves.",
)
@click.option("--quiet", is_flag=True, help="Write the files and print nothing.")
@engine_options
def command(
    runs: tuple[str, ...],
    output: Path | None,
    flight_recorder: Path | None,
    quiet: bool,
    engine: str | None,
    scheduler: str | None,
    workers: int | None,
) -> None:
    """Bring the run folders of a job's hosts together, and report on all ranks.

    Only what each rank was reduced to is taken over: some kilobytes a rank. A folder whose ranks were not reduced
    yet is, first.

    \b
    prof merge node-0/train node-1/train -o reports/train
    prof merge /shared/runs/* -o reports/train --scheduler tcp://head:8786
    """
    from profiler.config import load_config
    from profiler.report.merged import merge_runs
    from profiler.report.pipeline import make_report
    from profiler.report.runs import find_run

    base = Path(load_config(Path.cwd()).output)
    folders = [find_run(run, base) for run in runs]
    with chosen_engine(engine, scheduler, workers) as spread:
        merged = merge_runs(folders, output or base / f"{folders[0].name}-merged", spread)
    report = make_report(merged, dumps=flight_recorder)
    if not quiet:
        from rich.console import Console

        from profiler.report.terminal import print_result

        print_result(report.result, Console(), report.paths.html)
