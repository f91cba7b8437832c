"""`prof`: finds the command's file and runs it. Commands are imported only when asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import IO, Any

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


class Misused(click.ClickException):
    """A mistake on the command line, in one sentence."""

    exit_code = 2

    def __init__(self, error: click.UsageError) -> None:
        message = error.format_message()
        super().__init__(message[:1].lower() + message[1:])
        self._command = error.ctx.command_path if error.ctx is not None else "prof"

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it on stderr."""
        end = "" if self.message.endswith((".", "?", ")")) else "."
        click.echo(f"{self._command}: {self.message}{end} See `{self._command} --help`.", file=file, err=True)


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own, each with a `command` of its name."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _in_one_sentence():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _in_one_sentence():
            return super().invoke(ctx)

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


_SHOWS_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # of click 8.2 and later


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    try:
        yield
    except _SHOWS_HELP:
        raise
    except click.UsageError as error:
        raise Misused(error) from error


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
        cli(prog_name="prof")
    except ProfError as error:
        click.echo(f"prof: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
