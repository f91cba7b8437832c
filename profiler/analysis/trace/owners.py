"""Which process a device worked for, in a file that holds several.

In:  device events with the row they are drawn in, and the runtime calls of all processes.
Out: which events are the work of one of these processes.

Processes number their calls alike, so that a number alone tells nothing: a row belongs to the process whose calls
explain most of its work, of several such to the one whose calls came least before it, and where that is alike, too, to
the one with fewest rows so far.
"""

from __future__ import annotations

import numpy as np

from profiler.analysis.device.launches import EARLY_NS, matching
from profiler.analysis.intervals import Bools, Ints
from profiler.record.trace.recording import Calls, DeviceEvents

MOST_PROCESSES = 64  # that are looked at, those with most calls
_ALIKE = 0.99  # of the most work that one explains
_NO_SOONER_NS = 1000  # mean delays that differ by less are alike


def work_of(chosen: int, device: DeviceEvents, row: Ints, calls: Calls, process: Ints) -> Bools:
    """Device events of the rows that belong to the chosen process; `row` and `process` number the processes, as which
    a device is drawn, too."""
    number, count = np.unique(process, return_counts=True)
    callers = np.sort(number[np.argsort(-count, kind="stable")][:MOST_PROCESSES])
    rows, place = np.unique(row, return_inverse=True)
    explained = np.zeros((len(callers), len(rows)))
    delay = np.zeros((len(callers), len(rows)))
    for at, caller in enumerate(callers.tolist()):
        own = np.flatnonzero(process == caller)
        call = matching(device.correlation, calls.correlation[own], calls.start[own])
        linked = call >= 0
        ahead = device.start[linked] - calls.start[own[call[linked]]]
        fits = ahead >= -EARLY_NS
        where = place[linked][fits]
        explained[at] = np.bincount(where, minlength=len(rows))
        delay[at] = np.bincount(where, weights=ahead[fits], minlength=len(rows)) / np.maximum(explained[at], 1)
    belongs = np.array([number == chosen for number in _owners(callers, explained, delay)], dtype=bool)
    found: Bools = belongs[place] if len(rows) else np.zeros(0, dtype=bool)
    return found


def _owners(callers: Ints, explained: np.ndarray, delay: np.ndarray) -> list[int]:
    """The owner of each row; -1 for none."""
    rows_of = dict.fromkeys(range(len(callers)), 0)
    found = []
    for row in range(explained.shape[1]):
        most = explained[:, row].max(initial=0.0)
        if most == 0:
            found.append(-1)
            continue
        able = np.flatnonzero(explained[:, row] >= _ALIKE * most)
        soonest = able[delay[able, row] <= delay[able, row].min() + _NO_SOONER_NS].tolist()
        owner = min(soonest, key=lambda at: rows_of[at])
        rows_of[owner] += 1
        found.append(int(callers[owner]))
    return found
