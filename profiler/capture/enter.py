"""How recording begins in a Python that the launcher started: check in, and wait for torch.

Imported at interpreter start-up: only what is always loaded already, or cheap.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from .imports import when_imported

RUN = "TRAINPROF_RUN"
OPTIONS = "TRAINPROF_OPTIONS"


def enter() -> None:
    """Say that this Python exists, and record it once it imports torch."""
    run = os.environ[RUN]
    check_in(run, role="python")
    when_imported("torch", lambda torch: _begin(run))


def check_in(run: str, role: str, **more: Any) -> None:
    """Write `processes/<pid>.json`. Never raises: a run folder that is gone is no reason to stop a training."""
    fields = {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "role": role,
        "argv": getattr(sys, "orig_argv", sys.argv if hasattr(sys, "argv") else []),
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "started_unix_s": time.time(),
        "started_perf_ns": _process_start_ns(),
        "rank": os.environ.get("RANK"),
        "world_size": os.environ.get("WORLD_SIZE"),
        **more,
    }
    try:
        with open(f"{run}/processes/{os.getpid()}.json", "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(fields, file, default=str)
    except OSError:
        pass


def _process_start_ns() -> int:
    """When this process began, on the clock of `perf_counter_ns`."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
            ticks = int(file.read().rsplit(b")", 1)[1].split()[19])
        since_boot_ns = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        return time.perf_counter_ns() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - since_boot_ns)
    except (OSError, AttributeError, ValueError, IndexError):
        return time.perf_counter_ns()


def _begin(run: str) -> None:
    """torch has just been imported."""
    from .install import begin
    from .session import CaptureConfig

    options = json.loads(os.environ.get(OPTIONS, "{}"))
    begin(CaptureConfig.from_options(run, {**options, "late": False}))
