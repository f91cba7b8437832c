"""`--engine`, `--scheduler` and `--workers`: where many files are reduced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from profiler.analysis.engine import Spread, dask_cluster


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Declare the three."""
    for option in (
        click.option(
            "--workers", type=click.IntRange(1), metavar="N", help="With --engine dask: how many to start here."
        ),
        click.option("--scheduler", metavar="ADDRESS", help="A cluster of Dask that runs already: tcp://host:8786."),
        click.option(
            "--engine",
            type=click.Choice(["processes", "dask"]),
            help="What reduces many files.  [default: processes of this machine]",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def chosen_engine(engine: str | None, scheduler: str | None, workers: int | None) -> Iterator[Spread | None]:
    """The engine as it was asked for; None for this machine's own processes."""
    if engine != "dask" and scheduler is None:
        if workers is not None:
            raise click.UsageError("--workers is for --engine dask")
        yield None
        return
    if engine == "processes":
        raise click.UsageError("--scheduler is for --engine dask")
    if scheduler is not None and workers is not None:
        raise click.UsageError("--workers starts workers on this machine; those of --scheduler run already")
    with dask_cluster(scheduler, workers) as spread:
        yield spread
