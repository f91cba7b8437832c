"""Have the record reduced in a process of its own, where no `prof attach` stands over us to do it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .enter import OPTIONS, RUN

_running: list[subprocess.Popen[bytes]] = []


def start_reducing(folder: Path) -> None:
    """Start `python -m profiler.analysis.fold FOLDER`, unless one is at it. Never raises: the ring holds."""
    if _running and _running[0].poll() is None:
        return
    _running.clear()
    root = str(Path(__file__).resolve().parents[2])
    env = {name: value for name, value in os.environ.items() if name not in (RUN, OPTIONS)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH"))))
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "profiler.analysis.fold", str(folder)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return
    _running.append(process)
