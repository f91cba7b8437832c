"""A recording of memory alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from profiler.capture import memory, optimizer, settings
from profiler.capture.session import CaptureConfig, Session


@contextmanager
def recording(tmp_path: Path, deep: bool = True) -> Iterator[Session]:
    session = Session(CaptureConfig(tmp_path, deep=deep))
    settings.install(session)
    optimizer.install(session)
    memory.install(session)
    try:
        yield session
    finally:
        assert session.active, "an error of ours ended the recording"
        session.close()
