"""Keep up with a run that is still going: reduce what was recorded once there is enough of it.

Asked about once a second by `prof attach`. Until some training process has filled `ENOUGH` segments, this
looks at file names only and imports nothing: short runs never pay for it.
"""

from __future__ import annotations

from pathlib import Path

from profiler.record.layout import process_directories, tapes

ENOUGH = 12  # closed segments of the training thread: about 800,000 events


def follow(run: Path) -> int:
    """Reduce every training process of `run` that has enough closed segments; how many were reduced."""
    reduced = 0
    for directory in process_directories(run):
        streams = tapes(directory)
        waiting = max((len(paths) for stream, paths in streams.items() if stream.startswith("thread-")), default=0)
        if waiting > ENOUGH:
            from profiler.analysis.fold import fold

            fold(directory)
            reduced += 1
    return reduced
