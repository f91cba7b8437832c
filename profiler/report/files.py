"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

from profiler.errors import ProfError


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the path, then rename over it. Raises ProfError when the folder does not take it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ProfError(
            f"{path} could not be written ({reason}); the record is kept: "
            f"make room or make the folder writable, then run `prof report {path.parent}`."
        ) from error
