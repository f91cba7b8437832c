"""What the kernel says of this process, its children and its cores. Linux; elsewhere nothing is read.

Values are bytes and nanoseconds; None where the kernel does not say.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_STATM_BYTES = 96


def open_statm() -> int | None:
    """A descriptor from which the kernel says how many pages are resident; for the process's life."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def rss_reader() -> Callable[[], int] | None:
    """A function that reads this process's resident bytes in 1-2 µs, holding the GIL all the while.

    `os.pread` lets go of the GIL, and to get it back costs the training thread a forced switch.
    """
    descriptor = open_statm()
    if descriptor is None:
        return None
    read = _pread_holding_gil(descriptor) or (lambda: os.pread(descriptor, _STATM_BYTES, 0))

    def rss_bytes() -> int:
        return int(read().split(None, 2)[1]) * PAGE_BYTES

    try:
        rss_bytes()
    except (OSError, ValueError, IndexError):
        os.close(descriptor)
        return None
    return rss_bytes


def _pread_holding_gil(descriptor: int) -> Callable[[], bytes] | None:
    try:
        pread = ctypes.PyDLL(None).pread
    except (OSError, AttributeError):
        return None
    pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
    pread.restype = ctypes.c_ssize_t
    buffer = ctypes.create_string_buffer(_STATM_BYTES + 1)
    address = ctypes.addressof(buffer)

    def read() -> bytes:
        pread(descriptor, address, _STATM_BYTES, 0)
        return buffer.value

    return read


def idle_and_iowait_ns(cores: frozenset[int]) -> tuple[int, int] | None:
    """Time since boot that these cores were idle, and idle with reads or writes outstanding; summed."""
    try:
        lines = Path("/proc/stat").read_bytes().split(b"\n")
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        idle = iowait = 0
        for line in lines[1:]:
            if not line.startswith(b"cpu"):
                break
            words = line.split()
            if int(words[0][3:]) in cores:
                idle += int(words[4])
                iowait += int(words[5])
    except (OSError, ValueError, IndexError):
        return None
    return idle * tick_ns, iowait * tick_ns


def run_delay_ns(native_id: int) -> int | None:
    """Time since its start that a thread of this process was ready to run and had no core (proc(5), schedstat)."""
    try:
        used, delayed = map(int, Path(f"/proc/self/task/{native_id}/schedstat").read_bytes().split()[:2])
    except (OSError, ValueError):
        return None
    return delayed if used else None  # a kernel that does not count says 0 of everything


def usable_cores() -> frozenset[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def children_rss_bytes() -> int | None:
    """Resident bytes of this process's children and theirs; pages shared among them count for each."""
    try:
        return sum(_rss_of(pid) for child in _children("self") for pid in (child, *_children(child)))
    except OSError:
        return None


def _children(pid: str) -> list[str]:
    found: list[str] = []
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 -- names only
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return found


def _rss_of(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0
