"""How fast traces are read and judged, and in how much memory.

A large file is made by repeating the events of a real trace (from the folder that `PROF_TRACES` names, by default
`../shared/traces`; a made one where there is none), shifted in time and renumbered. Each size is read in a
process of its own, from the file to the facts, and says its seconds and its largest resident memory.

`PROF_HTA` may name a Python in which HolisticTraceAnalysis is installed: it then reads the same files, and makes its
temporal, kernel and overlap breakdowns of them.
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
from typing import Any

from profiler.record.trace.stream import Source

TRACE = "a100_6steps_nccl.json.gz"
SIZES_MB = (50, 200, 1000)
_SMALL = 500_000  # packed bytes, below which nothing but the start is measured
_READ = """
import json, sys, time
from pathlib import Path
began = time.perf_counter()
from profiler.analysis.trace.facts import facts_of
from profiler.record.trace.read import read_trace

def peak():  # of this process: ru_maxrss counts its parent's, too
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024

imported, cpu = time.perf_counter(), time.process_time()
recording = read_trace(Path(sys.argv[1]))
read = time.perf_counter()
facts = facts_of(recording).facts
done, cpu = time.perf_counter(), time.process_time() - cpu
print(json.dumps({"import": imported - began, "read": read - imported, "facts": done - read, "cpu": cpu, "rss": peak(),
                  "kernels": facts.device.kernel_count, "steps": facts.steps.count}))
"""


_HTA = """
import json, logging, os, resource, sys, time
logging.disable(logging.CRITICAL)
from hta.trace_analysis import TraceAnalysis
began, cpu = time.perf_counter(), time.process_time()
analysis = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir=os.path.dirname(sys.argv[1]))
analysis.get_temporal_breakdown(visualize=False)
analysis.get_gpu_kernel_breakdown(visualize=False)
analysis.get_comm_comp_overlap(visualize=False)
children = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"wall": time.perf_counter() - began,
                  "cpu": time.process_time() - cpu + children.ru_utime + children.ru_stime}))
"""


@dataclass(frozen=True)
class Speed:
    """One file."""

    name: str
    size_mb: float
    packed: bool
    read_s: float
    facts_s: float
    rss_mb: float
    steps: int
    cpu_s: float  # on a shared machine the steadier figure
    hta_s: float | None  # HolisticTraceAnalysis; None: not asked for
    hta_cpu_s: float | None

    @property
    def mb_per_s(self) -> float:
        """Of uncompressed JSON, from file to facts."""
        return self.size_mb / (self.read_s + self.facts_s)


def run(sizes_mb: tuple[int, ...] = SIZES_MB) -> list[Speed]:
    """Measure each recorded trace of some size, and each made size."""
    with tempfile.TemporaryDirectory() as folder:
        recorded = [measure(path) for path in sorted(_folder().glob("*.json.gz")) if path.stat().st_size > _SMALL]
        return recorded + [measure(repeated(Path(folder) / f"{size}.json", size * 1_000_000)) for size in sizes_mb]


def measure(path: Path) -> Speed:
    """Read and judge one file in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    found = json.loads(result.stdout.splitlines()[-1])
    size = sum(map(len, Source(path))) / 1e6
    hta = _by_hta(path)
    return Speed(
        name=path.name if path.parent == _folder() else "made",
        size_mb=size,
        packed=path.suffix == ".gz",
        read_s=found["read"],
        facts_s=found["facts"],
        rss_mb=found["rss"],
        steps=found["steps"],
        cpu_s=found["cpu"],
        hta_s=hta.get("wall"),
        hta_cpu_s=hta.get("cpu"),
    )


def _by_hta(path: Path) -> dict[str, float]:
    """What HolisticTraceAnalysis needs for the file; {} where it is not at hand, or can't read it."""
    python = os.environ.get("PROF_HTA")
    if python is None:
        return {}
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([python, "-c", _HTA, str(path)], capture_output=True, text=True, env=plain)
    if result.returncode:
        return {}
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def repeated(path: Path, size: int) -> Path:
    """A trace of this many bytes, made of real events."""
    document = _real()
    events = document.pop("traceEvents")
    timed = [event for event in events if isinstance(event.get("ts"), int | float) and event.get("cat") != "Trace"]
    length = max(event["ts"] + event.get("dur", 0) for event in timed) - min(event["ts"] for event in timed)
    written = 0
    with path.open("w") as file:
        file.write(json.dumps(document)[:-1] + ', "traceEvents": [\n')
        for text in _copies(timed, length):
            file.write(text if written == 0 else f",\n{text}")
            written += len(text) + 2
            if written >= size:
                break
        file.write("\n]}\n")
    return path


def _copies(events: list[dict[str, Any]], length: float) -> Iterator[str]:
    """Blocks of events, each later than the one before, with numbers of its own."""
    number = 0
    while True:
        for event in events:
            event["ts"] += length + 100 if number else 0
            if "id" in event:
                event["id"] += 10_000_000 * bool(number)
            args = event.get("args", {})
            for name in ("correlation", "External id", "Ev Idx", "Profiler Event Index"):
                if number and isinstance(args.get(name), int):
                    args[name] += 10_000_000 if name in ("correlation", "External id") else len(events)
        number += 1
        yield ",\n".join(map(json.dumps, events))


def _folder() -> Path:
    return Path(os.environ.get("PROF_TRACES") or Path(__file__).parents[2] / "shared" / "traces")


def _real() -> dict[str, Any]:
    path = _folder() / TRACE
    if path.exists():
        document = json.loads(b"".join(Source(path)))
    else:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "record"))
        from trace_builder import training, usual_host

        document = training(usual_host, 200).document()
        for event in document["traceEvents"][:2000:2]:
            document["traceEvents"].append(
                {**event, "cat": "kernel", "args": {"correlation": -1}, "pid": 0, "tid": 7, "name": "kernel"}
            )
    assert isinstance(document, dict)
    return document
