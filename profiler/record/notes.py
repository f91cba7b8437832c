"""Append notes: settings, sites and other words that are said once, one JSON object a line.

Standard library only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .layout import NOTES


class Notes:
    """Writes `notes.jsonl`; each line is one `write(2)`, so that no kill tears an earlier one."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    def write(self, kind: str, **fields: Any) -> None:
        """Append `{"kind": kind, "time_ns": now, **fields}`. Raises OSError when the disk is full."""
        line = json.dumps({"kind": kind, "time_ns": time.perf_counter_ns(), **fields}, default=str) + "\n"
        if self._descriptor is None:
            path = self._directory() / NOTES
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.write(self._descriptor, line.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Let go of the file; a later note opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
