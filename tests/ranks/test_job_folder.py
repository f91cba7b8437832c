"""One `prof attach` per rank, and folders of several hosts brought together."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from generated import job
from launching import HEAD, environment

from profiler.analysis.engine import dask_cluster
from profiler.analysis.ranks import kept
from profiler.errors import ProfError
from profiler.record import layout
from profiler.record.job_folder import Part, join_run, part_of_job, still_running
from profiler.record.run_folder import write_run_json
from profiler.report.merged import merge_runs
from profiler.report.pipeline import make_report

sys.path.insert(0, str(Path(__file__).parents[1] / "rules"))
from facts_builder import HEALTHY_MS, facts

TRAINING = (
    HEAD
    + """
model = DDP(torch.nn.Linear(64, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(30):
    if rank == 1:
        time.sleep(0.01)
    model(torch.randn(8, 64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
dist.barrier()
sys.exit(3 if rank == 1 else 0)
"""
)


def attach_each(folder: Path, outputs: tuple[str, str]) -> list[subprocess.CompletedProcess[str]]:
    """One `prof attach` for each rank, as srun starts them."""
    script = folder / "train.py"
    script.write_text(TRAINING)
    shared = environment(2)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "profiler.cli.main", "attach", "-o", output, "--name", "run", str(script)],
            cwd=folder,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, output in enumerate(outputs)
    ]
    said = [process.communicate(timeout=100) for process in started]
    return [
        subprocess.CompletedProcess([], process.returncode, *texts)
        for process, texts in zip(started, said, strict=True)
    ]


def summary(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return value


def test_one_attach_per_rank_gives_one_report_in_one_folder(tmp_path: Path) -> None:
    first, second = attach_each(tmp_path, ("out", "out"))
    assert (first.returncode, second.returncode) == (0, 3), first.stderr + second.stderr
    ranks = summary(tmp_path / "out" / "run")["ranks"]
    assert ranks["recorded"] == [0, 1] and ranks["late"]["rank"] == 1
    assert "Rank 1 comes last" in " ".join(first.stderr.split()) and "Ranks" not in second.stderr


def test_folders_of_two_hosts_are_brought_together(tmp_path: Path) -> None:
    first, second = attach_each(tmp_path, ("a", "b"))
    assert (first.returncode, second.returncode) == (0, 3)
    assert "prof merge" in second.stderr
    alone = summary(tmp_path / "a" / "run")
    assert alone["ranks"]["missing"] == [1]
    merge = [sys.executable, "-m", "profiler.cli.main", "merge", "a/run", "b/run", "-o", "whole", "--quiet"]
    done = subprocess.run(merge, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ranks = summary(tmp_path / "whole")["ranks"]
    assert ranks["recorded"] == [0, 1] and ranks["late"]["rank"] == 1
    assert not list((tmp_path / "whole").rglob("*.tape"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("distributed") is None, reason="Dask is not installed: pip install 'trainprof[cluster]'")
def test_ranks_that_a_cluster_reduces_are_the_same_bytes(tmp_path: Path) -> None:
    attach_each(tmp_path, ("a", "b"))
    for host in ("a", "b"):
        for name in (layout.RANK_JSON, layout.FACTS_JSON):
            for reduced in (tmp_path / host).rglob(name):
                reduced.unlink()
    hosts = [tmp_path / host / "run" for host in ("a", "b")]
    copies = [shutil.copytree(host, tmp_path / "there" / host.parent.name / "run") for host in hosts]
    merge_runs(hosts, tmp_path / "by-one")
    with dask_cluster(None, workers=2) as spread:

        def on_the_workers(function: Any, items: Any) -> Any:
            answers = spread(function, items)
            assert len(list((tmp_path / "there").rglob(layout.RANK_JSON))) == len(items) == 2
            return answers

        merge_runs(copies, tmp_path / "by-two", on_the_workers)
    for name in (layout.RANK_JSON, layout.FACTS_JSON):
        one = {path.parent.parent.name: path.read_bytes() for path in (tmp_path / "by-one").rglob(name)}
        two = {path.parent.parent.name: path.read_bytes() for path in (tmp_path / "by-two").rglob(name)}
        assert len(one) == 2 and one == two


# the folders alone


def write_host(folder: Path, ranks: list[int], total: int = 4) -> Path:
    write_run_json(folder_made(folder), command=["train.py"])
    whole = facts({**HEALTHY_MS, "communication": 10.0})
    for rank in (each for each in job(total, late={2: ("forward", 9.0)}) if each.rank in ranks):
        directory = layout.rank_directory(folder, rank.rank) / str(rank.pid)
        directory.mkdir(parents=True)
        kept.write(directory, rank, whole)
    return folder


def folder_made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_merging_needs_nothing_but_what_ranks_were_reduced_to(tmp_path: Path) -> None:
    hosts = [write_host(tmp_path / "a", [0, 1]), write_host(tmp_path / "b", [2, 3])]
    merged = merge_runs(hosts, tmp_path / "whole")
    ranks = make_report(merged).result.facts.ranks
    assert ranks is not None and ranks.recorded == (0, 1, 2, 3)
    assert ranks.late is not None and ranks.late.rank == 2
    assert json.loads((merged / "run.json").read_text())["merged_from"] == [str(host) for host in hosts]


def test_folders_that_are_not_of_one_job_are_refused_in_a_sentence(tmp_path: Path) -> None:
    first, second = write_host(tmp_path / "a", [0, 1]), write_host(tmp_path / "b", [1, 2])
    with pytest.raises(ProfError, match="rank 1 is in"):
        merge_runs([first, second], tmp_path / "whole")
    empty = tmp_path / "c"
    empty.mkdir()
    with pytest.raises(ProfError, match="no rank of a job"):
        merge_runs([empty], tmp_path / "other")
    with pytest.raises(ProfError, match="not empty"):
        merge_runs([first], second)


def test_facts_of_another_version_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    folder = write_host(tmp_path / "a", [0, 1, 2, 3])
    path = layout.rank_directory(folder, 3) / "1003" / layout.RANK_JSON
    path.write_bytes(path.read_bytes().replace(b'{"format":1', b'{"format":99'))
    found = make_report(folder).result.facts
    assert found.ranks is not None and found.ranks.recorded == (0, 1, 2)
    assert any("another version" in notice for notice in found.notices)


def test_ranks_that_are_gone_damaged_or_of_another_version_are_told_apart_and_the_rest_is_judged(
    tmp_path: Path,
) -> None:
    folder = write_host(tmp_path / "a", list(range(8)), total=8)
    shutil.rmtree(layout.rank_directory(folder, 7))
    torn = layout.rank_directory(folder, 5) / "1005" / layout.RANK_JSON
    torn.write_bytes(torn.read_bytes()[:500])
    newer = layout.rank_directory(folder, 4) / "1004" / layout.RANK_JSON
    newer.write_bytes(newer.read_bytes().replace(b'{"format":1', b'{"format":99'))
    found = make_report(folder).result.facts
    assert found.ranks is not None and found.ranks.recorded == (0, 1, 2, 3, 6)
    assert found.ranks.late is not None and found.ranks.late.rank == 2
    said = "; ".join(found.notices)
    assert "rank 7 left no record: the job is judged by the other 5 of 8" in said
    assert "rank 5 can't be read and is left out: rank.json is damaged" in said
    assert "rank 4 can't be read and is left out: another version of prof reduced them" in said


def test_merging_takes_over_what_can_not_be_read_so_that_it_is_said(tmp_path: Path) -> None:
    hosts = [write_host(tmp_path / "a", [0, 1]), write_host(tmp_path / "b", [2, 3])]
    (layout.rank_directory(hosts[1], 3) / "1003" / layout.RANK_JSON).write_bytes(b"{")
    (layout.rank_directory(hosts[1], 2) / "1002" / layout.FACTS_JSON).unlink()
    found = make_report(merge_runs(hosts, tmp_path / "whole")).result.facts
    assert found.ranks is not None and found.ranks.recorded == (0, 1, 2)
    assert any("rank 3 can't be read and is left out" in notice for notice in found.notices)


def test_where_the_typical_ranks_facts_are_gone_those_of_another_one_are_shown(tmp_path: Path) -> None:
    folder = write_host(tmp_path / "a", [0, 1, 2, 3])
    (layout.rank_directory(folder, 0) / "1000" / layout.FACTS_JSON).unlink()
    (layout.rank_directory(folder, 1) / "1001" / layout.FACTS_JSON).write_bytes(b"{")
    found = make_report(folder).result.facts
    assert found.ranks is not None and found.ranks.typical == 0
    assert any("stages are those of rank 2" in notice for notice in found.notices)
    with pytest.raises(ProfError, match=r"facts\.json can't be read"):
        make_report(folder, rank=0)
    for number in (2, 3):
        (layout.rank_directory(folder, number) / f"100{number}" / layout.FACTS_JSON).unlink()
    with pytest.raises(ProfError, match=r"facts\.json can't be read"):
        make_report(folder)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "3", "WORLD_SIZE": "8", "MASTER_PORT": "29500"}, Part(3, 8, "29500")),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}, Part(1, 2, "77-0")),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, Part(1, 2, "job")),
    ],
)
def test_a_part_of_a_job_is_known_by_its_launchers_variables(environ: dict[str, str], expected: Part | None) -> None:
    assert part_of_job(environ) == expected


def test_parts_of_one_job_share_a_folder_and_the_next_job_gets_its_own(tmp_path: Path) -> None:
    parts = [Part(number, 2, "29500") for number in (1, 0)]
    first = [join_run(tmp_path, None, "train", part) for part in parts]
    again = [join_run(tmp_path, None, "train", part) for part in parts]
    assert first[0] == first[1] != again[0] == again[1]
    assert still_running(first[0], 2) == 2
    with pytest.raises(ProfError, match="holds another run"):
        join_run(tmp_path, first[0].name, "train", parts[0])


def test_one_rank_of_a_job_has_a_report_of_its_own(tmp_path: Path) -> None:
    folder = write_host(tmp_path / "a", [0, 1, 2, 3])
    report = make_report(folder, rank=2)
    assert report.paths.summary == layout.rank_directory(folder, 2) / "summary.json"
    assert any("facts of rank 2" in notice for notice in report.result.facts.notices)
    with pytest.raises(ProfError, match="rank 9 left no record"):
        make_report(folder, rank=9)
