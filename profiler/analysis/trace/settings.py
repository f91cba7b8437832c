"""What a trace says of the training's settings: little, and only what names say.

In:  a recording and its training thread.
Out: `Settings`.
"""

from __future__ import annotations

from typing import Any

from profiler.analysis.facts import OptimizerSettings, Settings
from profiler.analysis.trace.host import Host
from profiler.record.trace.recording import Recording


def settings_of_trace(recording: Recording, host: Host) -> Settings:
    """Optimizers and DataLoaders by their classes."""
    values: dict[str, Any] = {}
    if recording.distributed.world_size is not None:
        values["world_size"] = recording.distributed.world_size
    if recording.distributed.backend is not None:
        values["backend"] = recording.distributed.backend
    return Settings(
        loaders=(),
        roots=(),
        optimizers=tuple(
            OptimizerSettings(number, name, None, None, None, 0, 0, 0, None)
            for number, name in enumerate(host.optimizers)
        ),
        values=values,
        sites={},
    )
