"""Many files on a cluster: what two workers of their own find is what one process finds, bit for bit."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from trace_builder import TraceBuilder, training, usual_host

from profiler.analysis.engine import Spread, dask_cluster
from profiler.analysis.trace.many import read_traces, trace_files
from profiler.errors import ProfError

needs_dask = pytest.mark.skipif(
    find_spec("distributed") is None, reason="Dask is not installed: pip install 'trainprof[cluster]'"
)


@pytest.fixture(scope="module")
def spread() -> Iterator[Spread]:
    """By the address of a scheduler that runs already, as on a cluster of many machines."""
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        dask_cluster(cluster.scheduler_address, None) as found,
    ):
        yield found


def process_of(_: int) -> int:
    time.sleep(0.2)  # so that one worker can't do all of it
    return os.getpid()


def dies(_: int) -> None:
    os._exit(1)


@needs_dask
def test_two_workers_find_what_one_process_finds(spread: Spread, tmp_path: Path) -> None:
    for rank in range(5):
        training(usual_host, 6, 100 + rank, rank=rank, world_size=5).write(tmp_path / f"rank{rank}.json.gz")
    (tmp_path / "torn.json").write_text('{"traceEvents": [{"ph": "X", "ts"')
    files = trace_files([tmp_path])
    alone = read_traces(files)
    assert repr(read_traces(files, spread)) == repr(alone)  # each digit of each number
    assert any("torn.json" in notice for notice in alone.notices)


@needs_dask
def test_workers_read_the_sources_where_they_were_asked_from(
    spread: Spread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They started in another folder than that of the user, who stands beside the script."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        main = builder.python("train.py(1): main", start, 99)
        builder.python("json/__init__.py(1): dumps", start + 40, 50, main)

    (tmp_path / "job").mkdir()
    (tmp_path / "traces").mkdir()
    (tmp_path / "job" / "train.py").write_text("def main():\n    json.dumps(rows)\n")
    training(step).write(tmp_path / "traces" / "it.json")
    monkeypatch.chdir(tmp_path / "job")
    files = trace_files([tmp_path / "traces"])
    found = read_traces(files, spread)
    assert {line.site.line for line in found.stages["backward"].lines if line.leaf} == {2}
    assert repr(found) == repr(read_traces(files))


@needs_dask
def test_the_work_is_spread_over_processes_and_answers_keep_their_order(spread: Spread) -> None:
    assert spread(abs, list(range(-20, 0))) == list(range(20, 0, -1))
    found = set(spread(process_of, list(range(8))))
    assert len(found) == 2 and os.getpid() not in found


@needs_dask
def test_a_worker_that_dies_is_told_in_a_sentence() -> None:
    with dask_cluster(None, workers=1) as cluster, pytest.raises(ProfError, match="for want of memory"):
        cluster(dies, [0])


@needs_dask
def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiler.analysis.engine._PATIENCE", "1s")
    with (
        pytest.raises(ProfError, match=r"no scheduler of Dask answers at tcp://127\.0\.0\.1:9"),
        dask_cluster("tcp://127.0.0.1:9", None),
    ):
        pass


def test_without_dask_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ProfError, match=r"pip install trainprof\[cluster\]"), dask_cluster(None, None):
        pass
