"""`prof report RUN`: render a recorded run again."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from profiler.cli.export import export_option, write_export


@click.command()
@click.argument("run")
@click.option("--open", "open_it", is_flag=True, help="Open the HTML report in a browser.")
@click.option("--quiet", is_flag=True, help="Write the files and print nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON instead.")
@click.option("--rank", type=click.IntRange(min=0), help="Report on one rank of a job, into that rank's folder.")
@click.option(
    "--flight-recorder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Dumps of torch's flight recorder, where they are not found by themselves.",
)
@export_option
def command(
    run: str,
    open_it: bool,
    quiet: bool,
    as_json: bool,
    rank: int | None,
    flight_recorder: Path | None,
    export: tuple[str, Path] | None,
) -> None:
    """Render a recorded run again.

    RUN is a run's folder, or its name under ./reports. Of a run that was killed, what it recorded is shown.

    \b
    prof report my-run --open
    prof report my-run --json | jq .verdict
    prof report my-run --rank 3
    prof report my-run --flight-recorder dumps/
    prof report my-run --export perfetto steps.json
    """
    from profiler.config import load_config
    from profiler.report.pipeline import has_record, make_report
    from profiler.report.runs import find_run

    config = load_config(Path.cwd())
    run_dir = find_run(run, Path(config.output))
    if as_json and not has_record(run_dir):
        _print_kept_summary(run_dir)
        return
    if config.peak_tflops:
        from profiler.analysis.peak import note_peak

        with contextlib.suppress(OSError):  # the report fails on that itself
            note_peak(run_dir, config.peak_tflops, measure=False)
    report = make_report(run_dir, rank=rank, dumps=flight_recorder)
    write_export(report.result.facts, export, str(run_dir))
    if as_json:
        from profiler.report.summary import summary

        _print_json(summary(report.result))
    elif not quiet:
        from rich.console import Console

        from profiler.report.terminal import print_result

        print_result(report.result, Console(), report.paths.html)
    if open_it and report.paths.html is not None:
        import webbrowser

        webbrowser.open(report.paths.html.resolve().as_uri())


def _print_kept_summary(run_dir: Path) -> None:
    from profiler.record.layout import SUMMARY_JSON
    from profiler.report.pipeline import require_record
    from profiler.report.summary import read_summary

    if not (run_dir / SUMMARY_JSON).exists():
        require_record(run_dir)
    kept = read_summary(run_dir / SUMMARY_JSON)
    click.echo(f"prof: the raw record of {run_dir} is gone; this is the summary it left.", err=True)
    _print_json(kept)


def _print_json(value: dict[str, Any]) -> None:
    from profiler.report.summary import summary_bytes

    sys.stdout.write(summary_bytes(value).decode("ascii"))
