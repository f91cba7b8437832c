"""What a trace says of the training's settings: little, and only what names say.

In:  a recording and its training thread.
Out: `Settings`.
"""

from __future__ import annotations

from typing import Any

from profiler.analysis.facts import Settings
from profiler.analysis.trace.host import Host
from profiler.record.trace.recording import Recording


def settings_of_trace(recording: Recording, host: Host) -> Settings:
    """Classes of optimizers and iterators, and the size of the job."""
    values: dict[str, Any] = {}
    if recording.distributed.world_size is not None:
        values["world_size"] = recording.distributed.world_size
    if recording.distributed.backend is not None:
        values["backend"] = recording.distributed.backend
    if host.optimizers:
        values["optimizers"] = ", ".join(host.optimizers)
    if any(host.iterators):
        values["data_iterators"] = ", ".join(filter(None, host.iterators))
    return Settings(loaders=(), roots=(), optimizers=(), values=values, sites={})
