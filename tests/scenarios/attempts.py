"""A training that is judged by its times needs a machine to itself: try again, and say so where there was none.

An attempt in which other processes had more than a tenth of a core proves nothing when it fails. A failure on a quiet
machine is a failure: three in a row are told. What was run before, for several tests at once, may pass, and
counts for nothing where it doesn't.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

ATTEMPTS = 3
BUSY_CORES = 0.1

Found = TypeVar("Found")


def _machine_s() -> float:
    """CPU time that all processes, and the hosts of this machine, have taken so far."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _ours_s() -> float:
    """CPU time of this process and of the children that it has waited for."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def judge(
    run: Callable[[Path], Found], check: Callable[[Found], None], folder: Path, first: Found | None = None
) -> None:
    """`check(first)`, then `check(run(folder))` until one holds, at most three runs, each in a folder of its own."""
    if first is not None and _holds(check, first):
        return
    quiet_failures = 0
    others = 0.0
    for attempt in range(ATTEMPTS):
        here = folder / str(attempt)
        here.mkdir()
        began, machine, ours = time.monotonic(), _machine_s(), _ours_s()
        found = run(here)
        others = (_machine_s() - machine - (_ours_s() - ours)) / (time.monotonic() - began)
        try:
            check(found)
        except AssertionError:
            quiet_failures += others <= BUSY_CORES
            if attempt + 1 < ATTEMPTS:
                continue
            if quiet_failures:
                raise
            pytest.skip(f"the machine is too busy to judge: other processes had {others:.1f} cores")
        return


def _holds(check: Callable[[Found], None], found: Found) -> bool:
    try:
        check(found)
    except AssertionError:
        return False
    return True
