"""The user's source files, as far as they lie where a trace says.

In:  a file's name as a trace has it, without the folders of `sys.path`.
Out: its text; None where there is no such file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

MOST_BYTES = 2 << 20
ReadSource = Callable[[str], str | None]


def source_reader(folders: Sequence[Path]) -> ReadSource:
    """Reads files of Python by their absolute names, or in the first of these folders that has them."""

    def read(name: str) -> str | None:
        if not name.endswith(".py") or "\0" in name:
            return None
        for folder in folders:
            path = folder / name
            try:
                if path.is_file() and path.stat().st_size <= MOST_BYTES:
                    return path.read_text("utf-8")
            except (OSError, ValueError):
                continue
        return None

    return read


def no_source(name: str) -> str | None:
    """Where no files are to be read."""
    return None
