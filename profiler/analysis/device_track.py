"""The track of the device's own clock: when it reached the boundaries that the training thread recorded.

In:  events of the stream "device" (windows of boundaries, as `capture.device_times` writes them), the moments of the
     training thread.
Out: a row per step that a window holds as a whole: how long the device took from boundary to boundary, by label.

Boundaries bear the host's time, which says what they are; the durations between them are the device's. A step begins
and ends where the device reaches the boundaries at which the host's step begins and ends, so that here too the stages
sum to the step exactly.
"""

from __future__ import annotations

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.asides import Columns
from profiler.analysis.block import Moments
from profiler.analysis.stack import fields
from profiler.record.reader import Events
from profiler.record.vocabulary import DeviceEvent, Kind, Name

STREAM = "device"
RECENT_MOMENTS = 1 << 15  # of the training thread, kept for windows that the device is through with only later


def read_device(events: Events, moments: Moments, until_ns: int | None) -> tuple[int, Columns]:
    """(events consumed, steps): a window is taken once all of its boundaries lie before the moment."""
    codes = fields(events)
    boundary = (codes.kind == Kind.MARK) & (codes.name == Name.DEVICE_EVENT)
    value = (codes.kind == Kind.VALUE) & (codes.name == Name.DEVICE_NS)
    begins = np.flatnonzero(boundary & (codes.detail == DeviceEvent.FIRST))
    ends = np.flatnonzero(boundary & (codes.detail == DeviceEvent.LAST))
    consumed = 0 if until_ns is not None else len(events)
    rows: list[dict[str, int]] = []
    for first in begins.tolist():
        place = int(np.searchsorted(ends, first))
        if place >= len(ends) or int(ends[place]) + 1 >= len(events):
            break  # its end is not written yet, or never will be
        last = int(ends[place])
        if until_ns is not None:
            if int(events[last, 1]) >= until_ns:
                break
            consumed = last + 2
        window = slice(first, last + 2)
        at = np.flatnonzero(boundary[window]) + first
        if len(at) * 2 == last + 2 - first and bool(value[at + 1].all()):
            rows += _steps(events[at, 1].astype(np.int64), events[at + 1, 1].astype(np.int64), moments)
    names = sorted({name for row in rows for name in row})
    return consumed, {name: np.array([row.get(name, 0) for row in rows], dtype=np.int64) for name in names}


def _steps(
    host_ns: np.ndarray[tuple[int], np.dtype[np.int64]],
    device_ns: np.ndarray[tuple[int], np.dtype[np.int64]],
    moments: Moments,
) -> list[dict[str, int]]:
    """The whole steps of one window: those that another one, or none, comes before and after."""
    label, step = moments.at(host_ns)
    took = np.diff(device_ns)
    rows = []
    for number in np.unique(step[1:-1]).tolist():
        of_step = np.flatnonzero(step == number)
        if number < 0 or of_step[0] == 0 or of_step[-1] == len(step) - 1:
            continue
        row = {"index": int(number), "wall_ns": 0}
        for boundary in of_step.tolist():
            if label[boundary] < lab.LABELS:
                part = f"part_{int(label[boundary])}"
                row[part] = row.get(part, 0) + int(took[boundary])
                row["wall_ns"] += int(took[boundary])
        rows.append(row)
    return rows
