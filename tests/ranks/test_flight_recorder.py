"""Dumps of torch's flight recorder: who came to the collective that hangs, who did not, and who called another."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flight_dumps import dump, entry, under_way, write
from generated import job
from launching import environment

from profiler.analysis.rank_facts import LastSeen, RankFacts
from profiler.analysis.ranks import flight, kept
from profiler.analysis.ranks.merge import merge
from profiler.analysis.site import Site
from profiler.analysis.stored import from_json, to_json
from profiler.errors import ProfError
from profiler.record import layout
from profiler.record.flight_recorder import read_dump
from profiler.record.run_folder import write_run_json
from profiler.report.pipeline import make_report

sys.path.insert(0, str(Path(__file__).parents[1] / "rules"))
from facts_builder import HEALTHY_MS, facts

HANGS = {
    0: dump([entry(7), under_way(8, line=20)]),
    1: dump([entry(7), under_way(8, line=20)]),
    2: dump([entry(6), entry(7, line=15)]),  # never called the eighth
    3: dump([entry(7), under_way(8, line=20)]),
}


def died(rank: RankFacts) -> RankFacts:
    return replace(rank, ended=False)


def write_run(folder: Path, ranks: list[RankFacts]) -> Path:
    folder.mkdir()
    write_run_json(folder, command=["train.py"], exit_code=1, duration_s=60.0)
    whole = facts({**HEALTHY_MS, "communication": 10.0})
    for rank in ranks:
        directory = layout.rank_directory(folder, rank.rank) / str(rank.pid)
        directory.mkdir(parents=True)
        kept.write(directory, rank, whole)
    return folder


@pytest.mark.parametrize("as_json", [False, True], ids=["pickle", "json"])
def test_the_collective_that_hangs_is_named_with_who_came_and_who_did_not(tmp_path: Path, as_json: bool) -> None:
    records = flight.read_all(write(tmp_path, HANGS, as_json))
    hang = flight.hang_of(records, 4)
    assert hang is not None and hang.recorder
    assert (hang.collective, hang.sequence, hang.group, hang.sizes) == ("all_reduce", 8, "default_pg", "4×3 float32")
    assert (hang.arrived, hang.absent, hang.unknown) == ((0, 1, 3), (2,), ())
    assert hang.sites["0"] == Site("/home/ada/train.py", 20, "step")
    assert hang.sites["2"].line == 15 and hang.doing["2"] == "after all_reduce number 7"
    assert flight.mismatch_of(records) is None


def test_a_rank_without_a_dump_is_neither_there_nor_absent(tmp_path: Path) -> None:
    hang = flight.hang_of(flight.read_all(write(tmp_path, {0: HANGS[0], 2: HANGS[2]})), 4)
    assert hang is not None and (hang.arrived, hang.absent, hang.unknown) == ((0,), (2,), (1, 3))


def test_nothing_hangs_where_all_is_done(tmp_path: Path) -> None:
    done = write(tmp_path, dict.fromkeys(range(4), dump([entry(7), entry(8)])))
    assert flight.hang_of(flight.read_all(done), 4) is None


def test_what_is_done_on_another_rank_hangs_on_none(tmp_path: Path) -> None:
    dumps = dict(HANGS)
    dumps[2] = dump([entry(6), under_way(7, line=15)])  # dumped before it was marked as done
    hang = flight.hang_of(flight.read_all(write(tmp_path, dumps)), 4)
    assert hang is not None and (hang.sequence, hang.absent) == (8, (2,))
    healthy = {0: dump([entry(7)]), 1: dump([under_way(7)])}
    assert flight.hang_of(flight.read_all(write(tmp_path / "healthy", healthy)), 2) is None


def test_a_rank_that_is_missed_in_one_group_and_stands_in_another_is_not_the_first_cause(tmp_path: Path) -> None:
    def pair(sequence: int, **changes: Any) -> dict[str, Any]:
        return under_way(sequence, process_group=("7", "tensor_parallel"), **changes)

    groups = {"0": {"ranks": "[0, 1, 2]"}, "7": {"ranks": "[1, 2]"}}
    dumps = {
        0: dump([entry(3), under_way(4)], pg_config=groups),
        1: dump([entry(3), pair(9, line=33)], pg_config=groups),  # waits for rank 2
        2: dump([entry(3), {**pair(8), "retired": True}], pg_config=groups),
    }
    hang = flight.hang_of(flight.read_all(write(tmp_path, dumps)), 3)
    assert hang is not None and (hang.group, hang.arrived, hang.absent) == ("tensor_parallel", (1,), (2,))


@pytest.mark.parametrize(
    ("changes", "what", "named"),
    [
        ({"profiling_name": "nccl:all_gather"}, "operation", "all_gather of 4×3 float32"),
        ({"input_sizes": [[8, 3]], "output_sizes": [[8, 3]]}, "size", "all_reduce of 8×3 float32"),
        ({"input_dtypes": ["Half"], "output_dtypes": ["Half"]}, "type", "all_reduce of 4×3 float16"),
    ],
)
def test_ranks_that_call_different_things_are_named(
    tmp_path: Path, changes: dict[str, Any], what: str, named: str
) -> None:
    dumps = dict.fromkeys(range(4), dump([entry(7), under_way(8, line=20)]))
    dumps[2] = dump([entry(7), under_way(8, line=44, **changes)])
    found = flight.mismatch_of(flight.read_all(write(tmp_path, dumps)))
    assert found is not None and (found.sequence, found.what) == (8, what)
    assert found.calls == {"all_reduce of 4×3 float32": (0, 1, 3), named: (2,)}
    assert found.sites["2"].line == 44


@pytest.mark.parametrize("operation", ["all_to_all", "all_gather_v", "scatter"])
def test_sizes_that_may_differ_are_no_mismatch(tmp_path: Path, operation: str) -> None:
    dumps = {
        rank: dump([entry(1, f"nccl:{operation}", input_sizes=[[rank + 1]], output_sizes=[[4]])]) for rank in range(3)
    }
    assert flight.mismatch_of(flight.read_all(write(tmp_path, dumps))) is None


def test_our_record_tells_where_the_rank_stood_that_did_not_come(tmp_path: Path) -> None:
    ranks = [died(rank) for rank in job(4)]
    ranks[2] = replace(ranks[2], last=LastSeen("data_wait", False, False, 40.0, 1e9, Site("/home/ada/data.py", 5)))
    found = merge(ranks, flight.read_all(write(tmp_path, HANGS)))
    assert found is not None and found.hang is not None and found.dumped == (0, 1, 2, 3)
    assert found.hang.absent == (2,) and found.hang.doing["2"] == "data_wait"
    assert found.hang.sites["2"].file == "/home/ada/data.py" and found.hang.sites["0"].line == 20


def test_a_job_that_ended_in_an_orderly_way_hangs_in_nothing_whatever_a_dump_says(tmp_path: Path) -> None:
    found = merge(job(4), flight.read_all(write(tmp_path, HANGS)))
    assert found is not None and found.hang is None


def test_dumps_are_found_where_the_run_was_told_to_write_them_but_not_those_of_an_earlier_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "dumps", HANGS)
    prefix = str(folder / "nccl_trace_rank_")
    written = (folder / "nccl_trace_rank_2").stat().st_mtime
    assert flight.find([prefix], 2, written - 5) is not None
    assert flight.find([prefix], 2, written + 5) is None
    assert flight.find([prefix], 9, written - 5) is None
    (folder / "nccl_trace_rank_2").write_bytes(b"\x80\x02damaged")
    assert flight.find([prefix], 2, written - 5) is None


def test_dumps_in_the_runs_folder_are_read_even_after_its_ranks_were_reduced(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [died(rank) for rank in job(4)])
    laid = write(run / layout.FLIGHT_RECORDER, HANGS)
    (laid / "nccl_trace_rank_3").write_bytes(b"damaged")
    ranks = make_report(run).result.facts.ranks
    assert ranks is not None and ranks.hang is not None and ranks.dumped == (0, 1, 2)
    assert (ranks.hang.absent, ranks.hang.unknown) == ((2,), (3,))


def test_the_report_is_made_with_dumps_of_a_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [died(rank) for rank in job(4)])
    dumps = dict(HANGS)
    dumps[1] = dump([entry(7), under_way(8, profiling_name="nccl:broadcast", line=31)])
    report = make_report(run, dumps=write(tmp_path / "dumps", dumps))
    assert report.paths.html is not None
    page = report.paths.html.read_text()
    for text in (
        "ranks 0, 1, 3 were in all_reduce",
        "to which rank 2 did not come",
        "number 8 of the group default_pg (4×3 float32), by torch&#39;s flight recorder",
        "rank 1 called broadcast of 4×3 float32 at",
        "train.py:31",
    ):
        assert text in page
    command = [
        sys.executable,
        "-m",
        "profiler.cli.main",
        "report",
        str(run),
        "--flight-recorder",
        str(tmp_path / "dumps"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "rank 2 did not come" in " ".join(done.stdout.split()), done.stderr


def test_what_a_rank_keeps_of_its_dump_is_small_and_read_back_as_it_was(tmp_path: Path) -> None:
    long = dump([entry(number) for number in range(2000)])
    (record,) = flight.read_all(write(tmp_path, {0: long})).values()
    rank = replace(job(1)[0], flight=record)
    assert from_json(RankFacts, to_json(rank)) == rank
    assert len(to_json(rank)) < 60_000 and record.entries[-1].sequence == 1999


# files that are no dump


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch it-ran",)


def refused(path: Path) -> str:
    with pytest.raises(ProfError) as caught:
        read_dump(path)
    return str(caught.value)


def test_a_dump_runs_no_code(tmp_path: Path) -> None:
    write(tmp_path, {0: dump([entry(1, extra=Evil())])})
    assert "could run code" in refused(tmp_path / "nccl_trace_rank_0") and not Path("it-ran").exists()


def test_tuples_within_tuples_are_refused(tmp_path: Path) -> None:
    nested: Any = ("a", "b")
    for _ in range(40):
        nested = (nested, nested)  # its hash takes 2^40 steps
    (tmp_path / "shared0").write_bytes(pickle.dumps(dump([entry(1, extra=nested)]), protocol=2))
    assert "not plain data" in refused(tmp_path / "shared0")
    deep = b"\x80\x02X\x01\x00\x00\x00a" + b"X\x01\x00\x00\x00b\x86" * 100_000 + b"."
    (tmp_path / "deep1").write_bytes(deep)
    assert "not plain data" in refused(tmp_path / "deep1")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"{", "not JSON"),
        (b'{"entries": 3}', "no entries"),
        (b'{"entries": [], "version": "9.1"}', "version 9.1"),
        (b"PK\x03\x04", "zip archive"),
        (b"\x80\x02}", "too early"),
    ],
)
def test_what_is_no_dump_is_refused_in_a_sentence(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "dump_0"
    path.write_bytes(data)
    text = refused(path)
    assert why in text and "\n" not in text


@pytest.mark.parametrize("odd", [[], [3], [{}], [{"profiling_name": 5}], [{"profiling_name": "nccl:x", "frames": [7]}]])
def test_entries_that_are_odd_are_left_out_or_empty(tmp_path: Path, odd: list[Any]) -> None:
    (tmp_path / "dump_0").write_text(json.dumps({"version": "2.10", "pg_config": {"0": 5}, "entries": odd}))
    assert len(read_dump(tmp_path / "dump_0").entries) <= 1


# torch's own dumps

TRAINING = """
import os, time, torch, torch.distributed as dist
from pathlib import Path
from torch._C._distributed_c10d import _dump_fr_trace
dist.init_process_group("gloo")
rank = dist.get_rank()
for step in range(5):
    dist.all_reduce(torch.ones(4, 3))
if rank == 0:
    work = dist.all_reduce(torch.ones(2, 2), async_op=True)  # to which rank 1 does not come
    time.sleep(0.5)
Path(os.environ["TORCH_FR_DUMP_TEMP_FILE"] + str(rank)).write_bytes(_dump_fr_trace())
os._exit(1)
"""


@pytest.mark.slow
def test_a_dump_of_this_torch_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch._C._distributed_c10d")
    if not hasattr(torch, "_dump_fr_trace"):
        pytest.skip("this torch has no flight recorder beside NCCL's")
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    shared = environment(2) | {
        "TORCH_FR_BUFFER_SIZE": "100",
        "TORCH_FR_DUMP_TEMP_FILE": str(tmp_path / "dump_"),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=200)[1] for rank in ranks]
    assert (tmp_path / "dump_1").exists(), errors
    found = {rank: flight.find([str(tmp_path / "dump_")], rank, 0.0) for rank in range(2)}
    in_place = flight.hang_of({rank: record for rank, record in found.items() if record}, 2)
    assert in_place is not None and 0.4 <= in_place.for_s < 60
    folder = tmp_path / "dumps"
    folder.mkdir()
    for rank in range(2):
        (tmp_path / f"dump_{rank}").rename(folder / f"dump_{rank}")
    hang = flight.hang_of(flight.read_all(folder), 2)
    assert hang is not None and hang.for_s < 0.4  # a copy does not tell when it was written
    assert (hang.collective, hang.arrived, hang.absent, hang.sequence) == ("all_reduce", (0,), (1,), 6)
    lines = TRAINING.splitlines()
    assert lines[hang.sites["0"].line - 1].strip().startswith("work = ")
    assert hang.sites["1"].file == str(script)
