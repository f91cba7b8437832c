"""The interpreter's switch interval: how soon a thread that wants the GIL may have it.

The sampler's thread sees the line that runs only if it gets the GIL before that line has ended, so we shorten the
interval while little else runs Python. Threads that wait do not count (a progress bar's monitor, a queue's feeder, a
thread that pins batches): each costs nothing while it sleeps.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

SHORTEST_S, LONGEST_S = 0.0002, 0.001
_CHECKS = 20  # of the GIL while a look waits for it, each of which costs us 10 µs; about so many may be made
_BUSY_SHARE = 0.1  # of a core, by all other threads that run Python
_MOST_THREADS = 16  # asked for their time

_before_s: float | None = None  # what it was before we shortened it
_ours_s = SHORTEST_S  # what we made of it


class Others:
    """How busy the Python threads are beside the one that trains and the one that asks."""

    def __init__(self) -> None:
        self._used_ns: dict[int, int] = {}
        self._asked_ns = 0
        self.busy(0)  # what they used until now is not of this time

    def busy(self, trains: int) -> bool:
        """Whether they used more than a tenth of a core since the last call; True where the kernel does not say."""
        mine = threading.get_ident()
        others = [it for it in threading.enumerate() if it.ident not in (trains, mine)]
        if len(others) > _MOST_THREADS:
            return True
        before, before_ns = self._used_ns, self._asked_ns
        self._asked_ns = time.perf_counter_ns()
        self._used_ns = {it.native_id: _used_ns(it.native_id) for it in others if it.native_id is not None}
        if -1 in self._used_ns.values():
            return True
        spent_ns = sum(max(0, used_ns - before.get(thread, 0)) for thread, used_ns in self._used_ns.items())
        return spent_ns > _BUSY_SHARE * (self._asked_ns - before_ns)


def _used_ns(thread: int) -> int:
    """CPU time of a thread of this process so far; 0 where it has just ended; -1 where the kernel does not say."""
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()[0])
    except ProcessLookupError:
        return 0
    except FileNotFoundError:
        return -1 if os.path.exists(f"/proc/self/task/{thread}") else 0  # noqa: PTH110
    except (OSError, ValueError, IndexError):
        return -1


def fit(busy: bool, wait_ns: float = 0) -> None:
    """Short unless others are busy; longer, up to 1 ms, where a look waits so long for the GIL on the average."""
    if busy:
        put_back()
    else:
        _shorten(min(max(SHORTEST_S, wait_ns / 1e9 / _CHECKS), LONGEST_S))


def _is_ours() -> bool:
    """Whether nobody else has set the interval since we did."""
    return abs(sys.getswitchinterval() - _ours_s) < 2e-6  # it is kept in whole microseconds


def _shorten(to_s: float) -> None:
    global _before_s, _ours_s
    if _before_s is None:
        if sys.getswitchinterval() <= to_s:
            return
        _before_s = sys.getswitchinterval()
    elif not _is_ours() or abs(to_s - _ours_s) <= 0.2 * _ours_s:
        return
    sys.setswitchinterval(to_s)
    _ours_s = to_s


def put_back() -> None:
    """Back to what it was, unless somebody else has set it since."""
    global _before_s
    before_s, _before_s = _before_s, None
    if before_s is not None and _is_ours():
        sys.setswitchinterval(before_s)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=put_back)
