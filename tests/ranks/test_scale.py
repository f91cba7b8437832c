"""A job of a thousand ranks: what is planted is found, and the report stays small."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from generated import job

from profiler.analysis.build import read_facts
from profiler.analysis.rank_facts import RanksFacts
from profiler.analysis.ranks import kept
from profiler.analysis.ranks.merge import merge
from profiler.record import layout
from profiler.record.run_folder import write_run_json
from profiler.report.pipeline import make_report
from profiler.rules.base import Bottleneck

sys.path.insert(0, str(Path(__file__).parents[1] / "rules"))
from facts_builder import HEALTHY_MS, facts

RANKS = 1024
LATE = {700: ("data_wait", 25.0), 33: ("forward", 15.0), 901: ("other", 12.0)}


def clocks_of(ranks: int) -> dict[str, Any]:
    """Hosts of eight ranks whose clocks differ by seconds and drift apart."""
    hosts = [f"host-{rank // 8:04d}" for rank in range(ranks)]
    offsets = {host: (number * 37 % 101) * 10**8 for number, host in enumerate(hosts[::8])}
    drift = {host: (number % 7 - 3) * 1e-5 for number, host in enumerate(hosts[::8])}
    return {"hosts": hosts, "offsets_ns": offsets, "drift": drift}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job on 128 hosts whose clocks differ, with late ranks of which one hides the others."""
    folder = tmp_path_factory.mktemp("job") / "run"
    folder.mkdir()
    write_run_json(folder, command=["train.py"], exit_code=0, duration_s=60.0)
    whole = facts({**HEALTHY_MS, "communication": 40.0})
    planted = job(RANKS, 300, late=LATE, **clocks_of(RANKS))
    for rank in planted:
        directory = layout.rank_directory(folder, rank.rank) / str(rank.pid)
        directory.mkdir(parents=True)
        kept.write(directory, rank, whole)
    return folder


def all_found(ranks: RanksFacts | None) -> None:
    assert ranks is not None and ranks.late is not None
    named = {ranks.late.rank: ranks.late.causes[0].what}
    named |= {each.rank: each.cause.what for each in ranks.late.also if each.cause}
    assert named == {rank: stage for rank, (stage, _) in LATE.items()}
    assert ranks.clocks.aligned and ranks.clocks.largest_offset_ms == pytest.approx(10_000, abs=ranks.clocks.error_ms)


def test_all_late_ones_of_a_thousand_ranks_are_named_with_their_causes(run: Path) -> None:
    began = time.process_time()
    ranks = read_facts(run).ranks
    assert time.process_time() - began < 30  # a twentieth of it as a rule
    all_found(ranks)
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
    assert all(f"rank {rank}" in page for rank in LATE) and "rank 701" not in page


@pytest.mark.slow
def test_sixteen_times_as_many_ranks_take_sixteen_times_as_long() -> None:
    took = {}
    for ranks in (RANKS, 16 * RANKS):
        planted = job(ranks, 64, late=LATE, **clocks_of(ranks))
        began = time.process_time()
        found = merge(planted)
        took[ranks] = time.process_time() - began
        all_found(found)
    assert took[16 * RANKS] < 40 * took[RANKS]
