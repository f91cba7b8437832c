"""Reduce the ranks of a job side by side, where each left much to read.

In:  the folders of training processes.
Out: each one's facts, kept in its folder.

    python -m profiler.analysis.ranks.spread RUN PROCESS_DIR

A plain subprocess for each: `multiprocessing` would run the main module again, which may be the user's script.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import profiler
from profiler.analysis.ranks import kept
from profiler.record import layout

SPREAD_SEGMENTS = 16  # in all, from which starting processes pays
_MOST_PROCESSES = 16
_PATIENCE_S = 600


def reduce_ahead(run_dir: Path, directories: Sequence[Path]) -> int:
    """Reduce what was not reduced yet, by processes of its own; how many. What fails is left to whoever reads it."""
    left = unreduced(directories)
    segments = sum(len(paths) for each in left for paths in layout.tapes(each).values())
    if len(left) < 2 or segments < SPREAD_SEGMENTS:
        return 0
    with ThreadPoolExecutor(min(len(left), os.cpu_count() or 1, _MOST_PROCESSES)) as pool:
        list(pool.map(_reduce_in_process, [run_dir] * len(left), left))
    return len(left)


def unreduced(directories: Sequence[Path]) -> list[Path]:
    """Those processes that left a record which was not reduced yet."""
    return [each for each in directories if kept.has_record(each) and kept.read_rank(each) is None]


def _reduce_in_process(run_dir: Path, directory: Path) -> None:
    root = str(Path(profiler.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-m", "profiler.analysis.ranks.spread", str(run_dir), str(directory)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
        )


def main(arguments: Sequence[str]) -> None:
    """Reduce one rank."""
    from profiler.analysis.build import reduce_one

    run_dir, directory = map(Path, arguments)
    reduce_one(run_dir, directory)


if __name__ == "__main__":
    main(sys.argv[1:])
