"""Scripts and commands that several benchmarks run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROF = [sys.executable, "-m", "profiler.cli.main", "attach", "--quiet"]


def last_line(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a command whose last line of output is a JSON object. Raises RuntimeError when it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def prof(folder: Path, name: str, *words: str) -> list[str]:
    """`prof attach`, its run in `folder/name`."""
    return [*PROF, "-o", str(folder), "--name", name, *words]
