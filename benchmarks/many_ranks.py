"""Merging and reporting jobs of very many ranks: seconds, memory, the size of the page, and whether all was found.

Jobs that never ran: facts of ranks from the simulation of tests/ranks, on hosts of eight ranks whose clocks differ by
seconds and drift, with late ranks planted in it. Half of the hosts lie in one folder and half in another; what is
measured is one `prof merge` of both, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from profiler.analysis.stored import to_json
from profiler.record import layout
from profiler.record.run_folder import write_run_json

RANKS = (256, 1024, 4096, 16384)
STEPS = 300
PER_HOST = 8
SIMULATION = Path(__file__).parents[1] / "tests"
_MERGE = """
import json, os, sys, time
began, cpu = time.perf_counter(), os.times()
from click.testing import CliRunner
from profiler.cli.merge import command
done = CliRunner().invoke(command, [sys.argv[1], sys.argv[2], "-o", sys.argv[3], "--quiet"])
if done.exit_code:
    sys.exit(done.output)
took, used = time.perf_counter() - began, os.times()
status = open("/proc/self/status").read()  # the peak of this process: ru_maxrss counts its parent's, too
rss = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"wall": took, "cpu": used.user + used.system - cpu.user - cpu.system, "rss": rss}))
"""


@dataclass(frozen=True)
class Merged:
    """One job."""

    ranks: int
    seconds: float
    cpu_s: float
    rss_mb: float
    page_mb: float
    found: int  # of the planted late ranks, with their causes
    planted: int
    clock_error_ms: float


def planted(ranks: int) -> dict[int, tuple[str, float]]:
    """The late ranks of a job: rank → (stage, ms more). The first hides the others."""
    return {
        ranks * 2 // 3: ("data_wait", 25.0),
        ranks // 5: ("forward", 15.0),
        ranks - 2: ("other", 15.0),
    }


def write_job(ranks: int, folders: tuple[Path, Path]) -> None:
    """The facts of all ranks, half of the hosts in each folder."""
    sys.path[:0] = [str(SIMULATION / "ranks"), str(SIMULATION / "rules")]
    from facts_builder import HEALTHY_MS, facts  # type: ignore[import-not-found,unused-ignore]
    from generated import job  # type: ignore[import-not-found,unused-ignore]

    hosts = [f"host-{rank // PER_HOST:05d}" for rank in range(ranks)]
    numbers = dict(zip(dict.fromkeys(hosts), range(ranks), strict=False))
    offsets = {host: (number * 37 % 101) * 10**8 for host, number in numbers.items()}
    drift = {host: (number % 7 - 3) * 1e-5 for host, number in numbers.items()}
    whole = to_json(facts({**HEALTHY_MS, "communication": 40.0}))
    for folder in folders:
        folder.mkdir(parents=True)
        write_run_json(folder, command=["train.py"], exit_code=0, duration_s=60.0)
    for rank in job(ranks, STEPS, late=planted(ranks), hosts=hosts, offsets_ns=offsets, drift=drift):
        folder = folders[2 * numbers[rank.host] >= len(numbers)]
        directory = layout.rank_directory(folder, rank.rank) / str(rank.pid)
        directory.mkdir(parents=True)
        (directory / layout.FACTS_JSON).write_bytes(whole)
        (directory / layout.RANK_JSON).write_bytes(to_json(rank))


def run(sizes: tuple[int, ...] = RANKS) -> Iterator[Merged]:
    """Measure each size."""
    for ranks in sizes:
        with tempfile.TemporaryDirectory() as name:
            yield measure(ranks, Path(name))


def measure(ranks: int, base: Path) -> Merged:
    """One job, written and merged in processes of their own."""
    folders = (base / "first", base / "second")
    call = f"from pathlib import Path; from benchmarks.many_ranks import write_job; write_job({ranks}, "
    call += f"(Path({str(folders[0])!r}), Path({str(folders[1])!r})))"
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", call], check=True, env=environment)
    done = subprocess.run(
        [sys.executable, "-c", _MERGE, *map(str, folders), str(base / "whole")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    cost = json.loads(done.stdout.splitlines()[-1])
    job = json.loads((base / "whole" / layout.SUMMARY_JSON).read_bytes())["ranks"]
    late = job["late"] or {"rank": None, "also": [], "causes": [{"what": None}]}
    named = {late["rank"]: late["causes"][0]["what"]}
    named |= {each["rank"]: (each["cause"] or {}).get("what") for each in late["also"]}
    expected = {rank: stage for rank, (stage, _) in planted(ranks).items()}
    return Merged(
        ranks=ranks,
        seconds=cost["wall"],
        cpu_s=cost["cpu"],
        rss_mb=cost["rss"],
        page_mb=(base / "whole" / layout.REPORT_HTML).stat().st_size / 1e6,
        found=sum(named.get(rank) == stage for rank, stage in expected.items()) - len(named.keys() - expected.keys()),
        planted=len(expected),
        clock_error_ms=job["clocks"]["error_ms"],
    )


if __name__ == "__main__":
    for merged in run(tuple(map(int, sys.argv[1:])) or RANKS):
        print(merged, flush=True)
