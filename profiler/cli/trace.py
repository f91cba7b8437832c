"""`prof trace FILE…`: judge traces that torch.profiler recorded."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.engine import chosen_engine, engine_options
from profiler.cli.export import export_option, write_export


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("-o", "--output", metavar="DIR", help="Where the report's folder is made.  [default: reports]")
@click.option("--name", help="Name of the report's folder.  [default: the name of the trace]")
@click.option("--open", "open_it", is_flag=True, help="Open the HTML report in a browser.")
@click.option("--quiet", is_flag=True, help="Write the files and print nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON instead.")
@export_option
@engine_options
def command(
    files: tuple[Path, ...],
    output: str | None,
    name: str | None,
    open_it: bool,
    quiet: bool,
    as_json: bool,
    export: tuple[str, Path] | None,
    engine: str | None,
    scheduler: str | None,
    workers: int | None,
) -> None:
    """Say where the time of a recorded training goes, and what holds it back.

    FILE is a trace that `torch.profiler` exported (.json or .json.gz, of any version and device), or a folder
    of them; give those of several ranks together. Nothing needs to have been installed in the training.

    \b
    prof trace worker0.pt.trace.json.gz
    prof trace logs/my-run/ --open
    prof trace rank-*.json.gz --name slow-job
    prof trace huge.json.gz --export perfetto steps.json
    prof trace /shared/traces/ --scheduler tcp://head:8786
    """
    from profiler.analysis.trace.many import trace_files
    from profiler.config import load_config
    from profiler.record.run_folder import trace_folder, write_run_json
    from profiler.record.trace.read import label_of
    from profiler.report.pipeline import make_trace_report

    found = trace_files(files)
    base = Path(load_config(Path.cwd(), {"output": output}).output)
    run = trace_folder(base, name, label_of(files[0] if len(files) == 1 else found[0]))
    try:
        with chosen_engine(engine, scheduler, workers) as spread:
            report = make_trace_report(found, run, spread=spread)
    except BaseException:
        _leave_none_behind(run)
        raise
    write_run_json(run, traces=[str(path.resolve()) for path in found])
    write_export(report.result.facts, export, str(found[0]))
    if as_json:
        from profiler.report.summary import summary, summary_bytes

        sys.stdout.write(summary_bytes(summary(report.result)).decode("ascii"))
    elif not quiet:
        from rich.console import Console

        from profiler.report.terminal import print_result

        print_result(report.result, Console(), report.paths.html)
    if open_it and report.paths.html is not None:
        click.launch(str(report.paths.html))


def _leave_none_behind(run: Path) -> None:
    """Of a trace that could not be read no empty folder stays."""
    try:
        run.rmdir()
    except OSError:
        pass
