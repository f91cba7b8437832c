"""What a trace holds, normalised: the value that the analysis of traces reads.

Times are nanoseconds since `Recording.origin_ns`; names are numbers into `names`. -1 means that the trace does not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from profiler.record.trace.shapes import Given

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]
Small = npt.NDArray[np.int8]


class Work(IntEnum):
    """What a device did."""

    KERNEL = 0
    COPY = 1
    SET = 2


class Track(NamedTuple):
    """The row that an event is drawn in: a thread of a process, or a stream of a device."""

    process: str
    thread: str


@dataclass(frozen=True, slots=True)
class HostEvents:
    """Events of host threads, in the order of the file."""

    start: Ints
    end: Ints
    name: Numbers
    track: Numbers

    def __len__(self) -> int:
        return len(self.start)

    def where(self, chosen: npt.NDArray[np.bool_] | Ints) -> HostEvents:
        """Some of them."""
        return HostEvents(self.start[chosen], self.end[chosen], self.name[chosen], self.track[chosen])


@dataclass(frozen=True, slots=True)
class Operators(HostEvents):
    """Operators and ranges that the user's code marked."""

    external: Ints  # number by which device events name the operator
    marked: npt.NDArray[np.bool_]  # a range of the user's or of torch's own modules, no operator
    given: Numbers  # number of what it was given, among `Recording.given`
    frame: Numbers  # name of the user's innermost frame, where the operator carries a call stack


@dataclass(frozen=True, slots=True)
class PythonCalls(HostEvents):
    """Calls of the user's functions, and of what those call themselves, where stacks were recorded."""

    users: npt.NDArray[np.bool_]  # a function of the user's; else the name is only what is called


@dataclass(frozen=True, slots=True)
class Calls(HostEvents):
    """Calls of the device's runtime and driver."""

    correlation: Ints
    bytes: Ints  # of a copy


@dataclass(frozen=True, slots=True)
class DeviceEvents:
    """Kernels, copies and memsets, in the order of the file."""

    start: Ints
    end: Ints
    name: Numbers
    track: Numbers
    work: Small  # a `Work`
    device: Ints
    stream: Ints
    correlation: Ints
    external: Ints
    bytes: Ints  # of a copy
    collective: Numbers  # name of the collective as the trace says it
    dtype: Numbers
    elements: Ints  # that the collective sends
    members: Ints  # of its group

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class MemoryReadings:
    """The allocator's state after each allocation and release on a device."""

    time: Ints
    device: Ints
    allocated: Ints  # bytes
    reserved: Ints


@dataclass(frozen=True, slots=True)
class Numbering:
    """The numbers that torch gave to the host's events: how many the file holds of those it gave."""

    seen: int
    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class Distributed:
    """This process's place among the ranks."""

    backend: str | None
    rank: int | None
    world_size: int | None


@dataclass(frozen=True, slots=True)
class Recording:
    """One trace file."""

    file: str  # as it was given
    label: str  # its name, without endings
    origin_ns: int  # on the trace's own clock
    base_ns: int  # to be added to it for Unix time; 0 where the trace does not say
    length_ns: int  # from the first start to the last end of all events with a length
    operators: Operators
    calls: Calls
    device: DeviceEvents
    python: PythonCalls
    memory: MemoryReadings
    names: tuple[str, ...]
    tracks: tuple[Track, ...]
    given: tuple[Given, ...]  # to operators whose work can be told by it, where shapes were recorded
    numbering: Numbering | None
    distributed: Distributed
    devices: dict[int, str]  # names of devices by their numbers
    capacities: dict[int, int]  # memory in bytes
    unpacked_bytes: int
    notices: tuple[str, ...]  # what the reader must know: a file that breaks off, events that could not be read
    lost: str = ""  # why so much of it is missing that idle time means nothing, in a clause

    @property
    def thinned(self) -> bool:
        """Whether events are missing: idle time, and what hides what, mean nothing then."""
        return bool(self.lost) or self.sampled

    @property
    def sampled(self) -> bool:
        """Whether most of the host's events were taken out after the recording."""
        given = self.numbering
        if given is None or given.seen < 2:
            return False
        return given.seen < _WHOLE_SHARE * (given.highest - given.lowest + 1)


_WHOLE_SHARE = 0.75  # of the numbered events, below which a trace was thinned
