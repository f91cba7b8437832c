"""What the process may use: the cores and the memory that its container leaves it.

In:  `/proc/self/cgroup` and the controllers' files under `/sys/fs/cgroup`, of version 1 or 2.
Out: cores and bytes; None where nothing limits them, or the system has no cgroups.

A group's limit holds for all below it, so the least of a group and its ancestors counts. In a container whose own
group is mounted as the root, `/proc/self/cgroup` may name a folder that can not be seen; the root counts then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/")
_UNLIMITED_BYTES = 1 << 60  # version 1 writes nearly 2**63 for no limit


def cores() -> int:
    """Whole cores that this process may use: by its affinity, and by its container's quota; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = core_quota()
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or what its container leaves of it; 0 where unknown."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        machine = 0
    limit = memory_limit_bytes()
    return min(machine, limit) if machine and limit is not None else machine or limit or 0


def core_quota(root: Path = SYSTEM) -> float | None:
    """CPU time per time that the container may use, in cores."""
    quotas = []
    for folder in _groups("cpu", root):
        quota, period = _pair(folder / "cpu.max") or (
            _number(folder / "cpu.cfs_quota_us"),
            _number(folder / "cpu.cfs_period_us"),
        )
        if quota is not None and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = SYSTEM) -> int | None:
    """Bytes of memory that the container may use."""
    found = [
        limit
        for folder in _groups("memory", root)
        for limit in (_number(folder / "memory.max"), _number(folder / "memory.limit_in_bytes"))
        if limit is not None and 0 < limit < _UNLIMITED_BYTES
    ]
    return min(found, default=None)


def used_cpu_ns(root: Path = SYSTEM) -> int | None:
    """CPU time that the container has used so far; None where it has no quota, or does not say."""
    if core_quota(root) is None:
        return None
    for folder in _groups("cpu", root):
        used_ns = _number(folder / "cpuacct.usage")
        if used_ns is not None:
            return used_ns
        for line in _text(folder / "cpu.stat").splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) * 1000
    return None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of this process's group and of its ancestors that the controller has files in, innermost first."""
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            mount = base if (base / "cgroup.controllers").exists() else base / "unified"
        elif controller in controllers.split(","):
            mount = next((base / name for name in (controllers, controller) if (base / name).is_dir()), base)
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount) and folder.is_dir():
                yield folder


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _pair(path: Path) -> tuple[int | None, int | None] | None:
    """The two numbers of `cpu.max`; "max" for no limit."""
    words = _text(path).split()
    if len(words) != 2 or not words[1].isdigit():
        return None
    return int(words[0]) if words[0].isdigit() else None, int(words[1])
