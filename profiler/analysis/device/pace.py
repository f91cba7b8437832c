"""Steps of a device that works on well after the host has left the last of them.

In:  device events with their launches, and the steps as the host cut them.
Out: `Pace`, the device's own steps; None where it keeps up with the host.

A host that never waits marks its steps as fast as it can launch them, and of a few such steps the device may have done
next to nothing when the last of them ends. Work belongs to the step in which it was launched (what lies between two
steps, to the later), and the device's step lasts from where its last one ended until all of that work is done.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiler.analysis import noise
from profiler.analysis.device.launches import Launches
from profiler.analysis.intervals import Bools, Intervals, Ints
from profiler.record.trace.recording import DeviceEvents

NS_PER_MS = 1e6
LAG_SHARE = 0.1  # of the host's mean step, by which the device must end the last one later


@dataclass(frozen=True, slots=True)
class Pace:
    """The device's own steps, each from one's end or later to its own end."""

    start: Ints
    end: Ints
    work: Bools  # device events that were launched in these steps

    @property
    def mean_ms(self) -> float:
        """Mean length of a step."""
        return float((self.end - self.start).mean()) / NS_PER_MS

    @property
    def noise_ms(self) -> float:
        """Half width of the 95 % interval of their median."""
        walls = (self.end - self.start) / NS_PER_MS
        return noise.median_noise(walls, np.ones(len(walls), dtype=np.int64))


def pace_of(device: DeviceEvents, launches: Launches, steps: Intervals, first_measured: int) -> Pace | None:
    """The device's own steps from the first measured one on; None where it keeps up, or where that is not known."""
    host_start, host_end = steps.start[first_measured:], steps.end[first_measured:]
    known = launches.known
    if len(host_start) == 0 or not bool(known.any()):
        return None
    step = np.searchsorted(host_end, launches.start, side="right")
    early = (known & (launches.start < host_start[0])) | _in_front(device, known)
    work = known & ~early & (step < len(host_end))
    done = host_end.copy()
    np.maximum.at(done, step[work], device.end[work])
    if int(done.max()) - int(host_end[-1]) <= LAG_SHARE * float((host_end - host_start).mean()):
        return None
    end = np.maximum.accumulate(done)
    before = max(int(host_start[0]), int(device.end[early].max(initial=0)))
    start = np.maximum(host_start, np.append(before, end[:-1]))
    end = np.maximum(end, start)
    return Pace(start, end, work)


def _in_front(device: DeviceEvents, known: Bools) -> Bools:
    """Work without a launch that its stream does before all work with one: it was asked for before the recording."""
    _, stream = np.unique(np.column_stack((device.device, device.stream)), axis=0, return_inverse=True)
    stream = stream.reshape(-1)
    first = np.full(int(stream.max()) + 1, -1, dtype=np.int64)
    np.maximum.at(first, stream[known], np.iinfo(np.int64).max)
    np.minimum.at(first, stream[known], device.start[known])
    found: Bools = ~known & (device.start < first[stream])
    return found
