"""A job of a thousand ranks: what is planted is found, and the report stays small."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from generated import job

from profiler.analysis.build import read_facts
from profiler.analysis.ranks import kept
from profiler.record import layout
from profiler.record.run_folder import write_run_json
from profiler.report.pipeline import make_report
from profiler.rules.base import Bottleneck

sys.path.insert(0, str(Path(__file__).parents[1] / "rules"))
from facts_builder import HEALTHY_MS, facts

RANKS = 1024


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job on 128 hosts whose clocks differ by seconds, with one late rank."""
    folder = tmp_path_factory.mktemp("job") / "run"
    folder.mkdir()
    write_run_json(folder, command=["train.py"], exit_code=0, duration_s=60.0)
    hosts = [f"host-{rank // 8:03d}" for rank in range(RANKS)]
    offsets = {host: (number * 37 % 101) * 10**8 for number, host in enumerate(hosts[::8])}
    drift = {host: (number % 7 - 3) * 1e-5 for number, host in enumerate(hosts[::8])}
    whole = facts({**HEALTHY_MS, "communication": 40.0})
    planted = job(RANKS, 300, late={700: ("data_wait", 25.0)}, hosts=hosts, offsets_ns=offsets, drift=drift)
    for rank in planted:
        directory = layout.rank_directory(folder, rank.rank) / str(rank.pid)
        directory.mkdir(parents=True)
        kept.write(directory, rank, whole)
    return folder


def test_the_late_one_of_a_thousand_ranks_is_named_with_its_cause(run: Path) -> None:
    ranks = read_facts(run).ranks
    assert ranks is not None and ranks.late is not None
    assert (ranks.world_size, ranks.hosts, ranks.late.rank, ranks.late.causes[0].what) == (1024, 128, 700, "data_wait")
    assert ranks.late.late_ms == pytest.approx(25.0, rel=0.1)
    assert ranks.clocks.aligned


def test_the_report_of_a_thousand_ranks_is_small_and_names_the_one_that_stands_out(run: Path) -> None:
    report = make_report(run)
    assert report.result.judgement.verdict.bottleneck is Bottleneck.STRAGGLER
    assert report.paths.html is not None
    page = report.paths.html.read_text()
    assert len(page) < 3_000_000
    assert "rank 700" in page and "rank 701" not in page
