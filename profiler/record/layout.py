"""Where things lie in a run folder.

    <run>/run.json                       what ran
    <run>/processes/<pid>.json           every Python that started under the run checks in
    <run>/rank-00000/<pid>/              one training process
        <stream>-000000.tape …           events, 1 MiB a segment; streams: thread-<n>, sampler, worker-<pid>
        out-of-memory.pickle             the allocator's snapshot when a device's memory last ran out
        notes.jsonl                      settings, sites, one JSON object a line
        folded.npz                       what older segments were reduced to
        window-0.json …                  what torch's profiler recorded of the accelerator in the deep window
        rank.json, facts.json            of a job of several ranks: what is merged, and all facts of this one
    <run>/flight-recorder/<any><rank>    dumps of torch's flight recorder, where somebody laid them there
    <run>/summary.json, report.html      the result

Standard library only: this module is imported into the user's training process.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

RUN_JSON = "run.json"
SUMMARY_JSON = "summary.json"
REPORT_HTML = "report.html"
PROCESSES = "processes"
NOTES = "notes.jsonl"
OUT_OF_MEMORY = "out-of-memory.pickle"
FOLDED = "folded.npz"
RANK_JSON = "rank.json"
FACTS_JSON = "facts.json"
FLIGHT_RECORDER = "flight-recorder"

_TAPE = re.compile(r"^(?P<stream>[a-z]+(?:-\d+)?)-(?P<seq>\d{6,})\.tape$")


def rank_directory(run: Path, rank: int) -> Path:
    """The folder of one rank."""
    return run / f"rank-{rank:05d}"


def process_directories(run: Path) -> list[Path]:
    """The training processes of all ranks, in order."""
    return sorted(path for path in run.glob("rank-*/*") if path.is_dir() and path.name.isdigit())


def tape_path(directory: Path, stream: str, seq: int) -> Path:
    """A segment of a stream."""
    return directory / f"{stream}-{seq:06d}.tape"


def window_path(directory: Path, number: int) -> Path:
    """The trace of a deep window."""
    return directory / f"window-{number}.json"


def tapes(directory: Path) -> dict[str, list[Path]]:
    """The segments that exist, by stream, in order."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for entry in os.scandir(directory):
        match = _TAPE.match(entry.name)
        if match:
            found.setdefault(match["stream"], []).append((int(match["seq"]), Path(entry.path)))
    return {stream: [path for _, path in sorted(segments)] for stream, segments in found.items()}


def tape_seq(path: Path) -> int:
    """The number of a segment within its stream."""
    match = _TAPE.match(path.name)
    if match is None:
        raise ValueError(f"{path} is not a tape segment")
    return int(match["seq"])
