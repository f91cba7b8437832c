"""Where many files are reduced: in this process, in others of this machine, or by a cluster.

In:  a function of one small value, and many of them.
Out: its answers, in their order. The function and its answers are the same wherever it runs.

The cluster is Dask's (`pip install trainprof[cluster]`): workers have to see the files under the same paths.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from profiler.errors import ProfError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_PATIENCE = "20s"  # for the scheduler to answer
_MOST_DEATHS = 1  # of workers over one file, before it is given up: a second one would die of it, too


class Spread(Protocol):
    """Maps a function over values, somewhere."""

    def __call__(self, function: Callable[[Item], Answer], items: Sequence[Item], /) -> list[Answer]: ...


@contextmanager
def dask_cluster(scheduler: str | None, workers: int | None) -> Iterator[Spread]:
    """A cluster by its scheduler's address, or one of this machine that ends with the block.

    Raises ProfError where Dask is not installed, the scheduler does not answer, or a worker dies.
    """
    try:
        import dask.config
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ProfError("there is no Dask here: `pip install trainprof[cluster]`, on the workers, too.") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told in our own sentence
    if scheduler is None:
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": _MOST_DEATHS}),
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
            ) as cluster,
            Client(cluster) as client,
        ):
            yield _spread_by(client)
        return
    try:
        client = Client(scheduler, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise ProfError(f"no scheduler of Dask answers at {scheduler}: start one with `dask scheduler`.") from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise ProfError(f"the cluster at {scheduler} has no worker: start some with `dask worker {scheduler}`.")
        yield _spread_by(client)


def _spread_by(client: Any) -> Spread:
    def spread(function: Callable[[Item], Answer], items: Sequence[Item], /) -> list[Answer]:
        from distributed.scheduler import KilledWorker

        futures = client.map(function, items, pure=False)
        try:
            answers: list[Answer] = client.gather(futures)
        except KilledWorker as error:
            raise ProfError(
                "a worker of the cluster was ended twice over one file, most likely for want of memory: "
                "give workers more of it, or fewer files at once."
            ) from error
        except ImportError as error:
            raise ProfError(f"workers of the cluster can't run this prof ({error}): install the same there.") from error
        return answers

    return spread
