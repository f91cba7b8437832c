"""Create run folders and say what ran in them.

Standard library only: the context manager uses it in the user's process.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from ..errors import ProfError
from .layout import PROCESSES, RUN_JSON
from .vocabulary import SCHEMA_VERSION


def create_run(base: Path, name: str | None, stem: str, numbered: bool = False) -> Path:
    """Make an empty run folder `base/name`; without a name, one is made of `stem` and the time.

    Raises ProfError when the folder exists (unless `numbered`: the name then gets a number), or cannot be made.
    """
    if name is not None and (not name.strip() or name in (".", "..") or "/" in name or os.sep in name):
        raise ProfError(f"{name!r} cannot be the name of a run: give one folder name, and its place with --output.")
    try:
        base.mkdir(parents=True, exist_ok=True)
        if name is not None and numbered:
            run = _make_numbered(base, name)
        elif name is not None:
            made = _make(base / name)
            if made is None:
                raise ProfError(f"{base / name} exists already: give another --name, or remove that folder first.")
            run = made
        else:
            run = _make_numbered(base, f"{safe_stem(stem)}-{time.strftime('%Y%m%d-%H%M%S')}")
        (run / PROCESSES).mkdir(exist_ok=True)
    except OSError as error:
        raise ProfError(
            f"cannot write to {base} ({error.strerror or error}): choose a writable folder with --output."
        ) from error
    return run


def trace_folder(base: Path, name: str | None, label: str) -> Path:
    """A folder for the report of a trace: `base/name`, by default named as the trace; one that a trace made is reused.

    Raises ProfError when the folder is another run's, or cannot be made.
    """
    if name is not None and (not name.strip() or name in (".", "..") or "/" in name or os.sep in name):
        raise ProfError(f"{name!r} cannot be the name of a run: give one folder name, and its place with --output.")
    wanted = name if name is not None else safe_stem(label)
    try:
        base.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            run = base / (wanted if number == 1 else f"{wanted}-{number}")
            if _make(run) is not None or traces_of(run):
                return run
            if name is not None:
                break
    except OSError as error:
        raise ProfError(
            f"cannot write to {base} ({error.strerror or error}): choose a writable folder with --output."
        ) from error
    raise ProfError(f"{base / wanted} exists already: give another --name, or remove that folder first.")


def traces_of(run: Path) -> list[str]:
    """The trace files that a run folder's report was made from; none for a run that was recorded."""
    try:
        known = json.loads((run / RUN_JSON).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    files = known.get("traces") if isinstance(known, dict) else None
    return [str(file) for file in files] if isinstance(files, list) else []


def _make(run: Path) -> Path | None:
    """Make the folder, or take it when it is there and empty; None when it is taken."""
    try:
        run.mkdir()
    except FileExistsError:
        if not run.is_dir() or any(run.iterdir()):
            return None
    return run


def _make_numbered(base: Path, stem: str) -> Path:
    for number in range(1, 10_000):
        run = _make(base / (stem if number == 1 else f"{stem}-{number}"))
        if run is not None:
            return run
    raise ProfError(f"{base} is full of runs named {stem}: give another --name.")


def safe_stem(text: str) -> str:
    """A file name made of `text`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60] or "run"


def write_run_json(run: Path, **fields: Any) -> None:
    """Write or extend `run.json`, atomically. Raises OSError."""
    path = run / RUN_JSON
    known: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "name": run.name}
    if path.exists():
        try:
            known.update(json.loads(path.read_text("utf-8")))
        except ValueError:
            pass
    known.update(fields)
    partial = path.with_suffix(".json.part")
    partial.write_text(json.dumps(known, indent=1, default=str), "utf-8")
    partial.replace(path)
