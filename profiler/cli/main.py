"""`prof`: finds the command's file and runs it. Commands are imported only when asked for."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from profiler.errors import ProfError

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module, one line for `prof --help`)
    "attach": ("profiler.cli.attach", "Run a training and see where its time and memory go."),
    "run": ("profiler.cli.attach", "The same as attach."),
    "trace": ("profiler.cli.trace", "Judge traces that torch.profiler recorded."),
    "report": ("profiler.cli.report", "Render a recorded run again."),
    "merge": ("profiler.cli.merge", "Bring the folders of a job's hosts together."),
    "list": ("profiler.cli.list", "Show the runs that were recorded."),
    "memory": ("profiler.cli.memory", "Explain a snapshot of a CUDA device's memory."),
    "plan": ("profiler.cli.plan", "Will it fit, how long will it take, what will it cost."),
    "rules": ("profiler.cli.rules", "Show what the tool looks for, and why."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own, each with a `command` of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trainprof", prog_name="prof")
def cli() -> None:
    """Where every millisecond and gigabyte of a PyTorch training goes.

    \b
    prof attach train.py --epochs 3      run a training, edit nothing
    prof report my-run                   render its report again
    """


def main() -> None:
    """Entry point: our own errors are one sentence on stderr and exit code 2."""
    try:
        cli()
    except ProfError as error:
        click.echo(f"prof: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
