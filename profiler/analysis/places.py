"""Where in the user's code each thread of a trace was.

In:  a `Recording` with stacks: functions of Python as events, or call stacks that operators carry (before torch 1.12).
Out: `Places`: numbered places, and which of them a thread was at when.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from profiler.analysis.device.enclosing import Owners, busiest, owners
from profiler.analysis.intervals import Ints
from profiler.analysis.site import Site
from profiler.analysis.source_lines import Line, Sources
from profiler.record.trace.python import Frame, frame_of
from profiler.record.trace.recording import Numbers, PythonCalls, Recording
from profiler.record.trace.source import ReadSource, no_source

STOOD_NS = 1_000_000  # torch notes the functions that run when a recording begins right then, one after the other


@dataclass(frozen=True, slots=True)
class Place:
    """A function of the user's, and what it called itself at the time."""

    frame: Frame
    called: str  # "" for nothing but operators
    stood: bool  # the function was running when the recording began: its line is where it stood then
    exact: bool  # the line is the one that ran


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a recording; none where no stacks were recorded."""

    known: tuple[Place, ...]
    tracks: dict[int, Owners]  # whose owners are numbers of places
    sources: Sources
    thread: int = -1  # the one that trains
    graph: tuple[int, ...] = ()  # those that run its graph: it waits for them at the line that asked for that

    def __bool__(self) -> bool:
        return bool(self.known)

    def at(self, when: Ints, track: Numbers) -> Ints:
        """The place of each moment on a track; -1 where that is not known."""
        found = np.full(len(when), -1, dtype=np.int64)
        for number in self.tracks:
            asked = np.flatnonzero(track == number)
            if len(asked):
                found[asked] = self.tracks[number].at(when[asked])
        asked = np.flatnonzero((found < 0) & np.isin(track, self.graph))
        if len(asked) and self.thread in self.tracks:
            found[asked] = self.tracks[self.thread].at(when[asked])
        return found

    def line(self, number: int, operator: str = "") -> Line:
        """The line of a place, as near as it is known."""
        place = self.known[number]
        if place.exact:
            return Line(Site(*place.frame), "")
        return self.sources.line(place.frame, place.called, place.stood, operator)

    def site(self, numbers: Ints, weights: Ints, operator: str = "") -> Site | None:
        """The line of the place with most of this weight, where it has at least half of it."""
        if not self.known or len(numbers) == 0:
            return None
        sums = np.bincount(numbers + 1, weights=weights)
        most = int(sums.argmax())
        if most == 0 or 2 * sums[most] < sums.sum():
            return None
        return self.line(most - 1, operator).site


def places_of(
    recording: Recording, read: ReadSource = no_source, thread: int = -1, graph: tuple[int, ...] = ()
) -> Places:
    """The places of one process, whose training thread and threads of the graph these are."""
    sources = Sources(read)
    if len(recording.python):
        found = _of_functions(recording.python, recording.names, sources)
        return replace(found, thread=thread, graph=graph)
    return _of_stacks(recording, sources)


def _of_functions(python: PythonCalls, names: tuple[str, ...], sources: Sources) -> Places:
    known: dict[tuple[int, int, bool], int] = {}
    tracks = {}
    for track in busiest(python.track):
        own = np.flatnonzero(python.track == track)
        start, end, users, name = python.start[own], python.end[own], python.users[own], python.name[own]
        stood = users & (start < int(end.min())) & (start - int(start.min()) < STOOD_NS)
        within = owners(start, end)
        around = within.around
        caller = np.where(users, np.arange(len(own)), around)
        fits = (caller >= 0) & users[np.maximum(caller, 0)]
        called = np.where(users, -1, name)
        keys = np.column_stack((name[np.maximum(caller, 0)], called, stood[np.maximum(caller, 0)]))
        rows, inverse = np.unique(keys, axis=0, return_inverse=True)
        of_row = [known.setdefault((int(a), int(b), bool(c)), len(known)) for a, b, c in rows.tolist()]
        place = np.where(fits, np.array(of_row, dtype=np.int64)[inverse.reshape(-1)], -1)
        tracks[track] = _renamed(within, place)
    found = []
    for user, called_name, stands in known:
        frame = frame_of(names[user]) or Frame(names[user], 0, "")
        found.append(Place(frame, names[called_name] if called_name >= 0 else "", stands, exact=False))
    return Places(tuple(found), tracks, sources)


def _of_stacks(recording: Recording, sources: Sources) -> Places:
    operators, names = recording.operators, recording.names
    having = np.flatnonzero(operators.frame >= 0)
    frames, place = np.unique(operators.frame[having], return_inverse=True)
    tracks = {}
    for track in busiest(operators.track[having]):
        own = np.flatnonzero(operators.track[having] == track)
        at = having[own]
        tracks[track] = _renamed(owners(operators.start[at], operators.end[at]), place.reshape(-1)[own])
    known = (Place(frame_of(names[n]) or Frame(names[n], 0, ""), "", stood=False, exact=True) for n in frames.tolist())
    return Places(tuple(known), tracks, sources)


def _renamed(within: Owners, place: Ints) -> Owners:
    """With places for owners."""
    if len(place) == 0:
        return within
    owner = np.where(within.owner >= 0, place[np.maximum(within.owner, 0)], -1)
    return Owners(within.edge, owner, within.around)
