"""`prof attach` (and `prof run`): run a training, then say where its time went."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from pathlib import Path

import click

from profiler.analysis.follow import follow
from profiler.capture import launcher
from profiler.config import Config, load_config
from profiler.errors import ProfError
from profiler.record.job_folder import Part, about, join_run, part_of_job, still_running
from profiler.record.layout import RUN_JSON
from profiler.record.run_folder import create_run

_WAIT_FOR_OTHERS_S = 1.5  # of a job's other parts, once ours has ended
_EPILOG = """\b
Examples:
  prof attach train.py --epochs 3
  prof attach --name baseline train.py
  prof attach -m package.train --lr 3e-4
  prof attach -- torchrun --nproc-per-node 2 train.py
  srun prof attach train.py           one folder and one report for all ranks
  prof attach -- bash run.sh

Everything after the script is the script's. PROF_DISABLE=1 runs it with no recording at all.
Settings: [tool.prof] in pyproject.toml, then PROF_* variables, then these options."""


class _AttachCommand(click.Command):
    """As for `python` itself, what follows `-m MODULE` is the module's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {name for option in self.params if not getattr(option, "is_flag", True) for name in option.opts}
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            if args[at] == "-m" and args[at + 2 : at + 3] != ["--"]:
                args = [*args[: at + 2], "--", *args[at + 2 :]]
                break
            at += 2 if args[at] in takes_value else 1
        return super().parse_args(ctx, args)


@click.command(
    cls=_AttachCommand,
    context_settings={
        "ignore_unknown_options": False,
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
    },
    epilog=_EPILOG,
    short_help="Run a training and see where its time and memory go.",
)
@click.option("-m", "module", metavar="MODULE", help="Run a module as a script, as `python -m` does.")
@click.option("-o", "--output", metavar="DIR", help="Where run folders are made.  [default: reports]")
@click.option("--name", help="Name of the run's folder.  [default: the script and the time]")
@click.option("--open", "open_report", is_flag=True, help="Open the report in a browser when done.")
@click.option("--quiet", is_flag=True, default=None, help="Print nothing but errors.")
@click.option("--no-report", is_flag=True, help="Record only; `prof report RUN` renders later.")
@click.option(
    "--deep/--no-deep",
    default=None,
    help="Look deep for a few steps: operators, activation memory; costs half a second to two, more where a step has "
    "tens of thousands of operators, kept out of the figures.  [default: deep]",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
def command(
    module: str | None,
    output: str | None,
    name: str | None,
    open_report: bool,
    quiet: bool | None,
    no_report: bool,
    deep: bool | None,
    words: tuple[str, ...],
) -> None:
    """Run a training script, edit nothing, and read where every millisecond of its steps goes."""
    run_command = launcher.command_of(words, module)
    if os.environ.get("PROF_DISABLE", "") not in ("", "0"):
        os.execvpe(run_command[0], run_command, os.environ)
    config = load_config(
        Path.cwd(), {"output": output, "quiet": quiet, "deep": deep, "report": False if no_report else None}
    )
    part = part_of_job(os.environ)
    stem = launcher.script_name(words, module)
    run = (
        create_run(Path(config.output), name, stem) if part is None else join_run(Path(config.output), name, stem, part)
    )
    follower = _Follower(run)
    options = {**launcher.options_of(config), "followed": True}
    outcome = launcher.launch(run_command, run, options, follower.tick, about(run, part) if part else None)
    if part is not None and not _ended_last(run, part, outcome):
        launcher.leave_as(outcome)
    if config.report:
        _report(run, config, outcome, open_report)
    elif not config.quiet:
        click.echo(f"prof: recorded in {run}; `prof report {run}` renders it.", err=True)
    launcher.leave_as(outcome)


def _ended_last(run: Path, part: Part, outcome: launcher.Outcome) -> bool:
    """Reduce this part's ranks; whether this is the part that reports on the job.

    That is part 0, which waits a moment for the others to end.
    """
    if part.number == 0:
        shutil.copyfile(about(run, part) / RUN_JSON, run / RUN_JSON)
        until_s = time.monotonic() + _WAIT_FOR_OTHERS_S
        while still_running(run, part.count) and time.monotonic() < until_s:
            time.sleep(0.05)
        running = still_running(run, part.count)
        if running:
            click.echo(
                f"prof: {running} of {part.count} parts of the job have not ended; `prof report {run}` reads all.",
                err=True,
            )
        return True
    try:
        from profiler.analysis.build import reduce_ranks

        rank = os.environ.get("RANK", "")
        reduce_ranks(run, host=socket.gethostname(), rank=int(rank) if rank.isdigit() else None)
    except Exception as error:
        click.echo(f"prof: this rank could not be reduced ({error}); whoever reports does it.", err=True)
    if not about(run, Part(0, part.count, part.job)).exists():
        click.echo(f"prof: recorded in {run}; `prof merge` brings it together with the folder of rank 0.", err=True)
    return False


class _Follower:
    """What we do while the training runs: reduce what is recorded, so that the disk stays bounded."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.failed = False

    def tick(self) -> None:
        """Called about once a second."""
        if self.failed:
            return
        try:
            follow(self.run)
        except Exception as error:
            self.failed = True  # the writer's own ring keeps the bound; only the oldest detail is lost
            click.echo(f"prof: reducing the record failed ({error}); the oldest steps may be lost.", err=True)


def _report(run: Path, config: Config, outcome: launcher.Outcome, open_report: bool) -> None:
    """Analyse and show. An error of ours is one line, and the training's exit code stays."""
    try:
        from profiler.analysis.peak import note_peak
        from profiler.report.pipeline import make_report
        from profiler.report.terminal import print_result

        with contextlib.suppress(OSError):
            note_peak(run, config.peak_tflops or None, config.deep)
        report = make_report(run)
        if not config.quiet:
            from rich.console import Console

            print_result(report.result, Console(stderr=True), report.paths.html)
        if open_report and report.paths.html is not None:
            click.launch(str(report.paths.html))
    except ProfError as error:
        click.echo(f"prof: {error}", err=True)
    except Exception as error:
        click.echo(
            f"prof: the report failed ({type(error).__name__}: {error}); the record is kept in {run}, "
            f"`prof report {run}` tries again.",
            err=True,
        )
