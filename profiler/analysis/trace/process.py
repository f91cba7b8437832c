"""Which process of a trace trains, and what its threads do.

In:  a `Recording`, of one process or of several.
Out: `Process`: the recording with that process's events alone, its training thread and the threads that run its graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from profiler.analysis.intervals import Bools, Ints
from profiler.analysis.trace import words
from profiler.analysis.trace.owners import work_of
from profiler.record.trace.recording import Calls, DeviceEvents, HostEvents, Numbers, Operators, PythonCalls, Recording


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a recording."""

    recording: Recording  # its events alone
    pid: str
    thread: int  # the track of the thread that trains; -1 for none
    others: int  # further processes with events of their own


def named(events: HostEvents, names: tuple[str, ...], holds: Callable[[str], bool]) -> Bools:
    """Which events have a name of a kind; each name is looked at once."""
    of_kind = np.zeros(len(names) + 1, dtype=bool)
    for number in np.flatnonzero(np.bincount(events.name)).tolist():
        of_kind[number] = holds(names[number])
    found: Bools = of_kind[events.name]
    return found


def graph_threads(process: Process) -> list[int]:
    """Threads other than the training thread that run its graph."""
    operators = process.recording.operators
    nodes = named(operators, process.recording.names, words.is_gradient)
    found: list[int] = np.unique(operators.track[nodes & (operators.track != process.thread)]).tolist()
    return found


def training_process(recording: Recording) -> Process:
    """The process with most of what a training leaves: marked steps, updates, gradients, operators."""
    recording = _with_ranges(recording)
    pids = [track.process for track in recording.tracks]
    numbers = {pid: number for number, pid in enumerate(dict.fromkeys(pids))}
    process = np.array([numbers[pid] for pid in pids], dtype=np.int64) if pids else np.empty(0, np.int64)
    operators, names = recording.operators, recording.names
    marks = _kinds(operators, names)
    of_operator = process[operators.track]
    if len(numbers) == 0 or len(operators) == 0:
        return Process(recording, "", -1, 0)
    weight = np.zeros((len(numbers), 4), dtype=np.int64)
    for column, which in enumerate((*marks, np.ones(len(operators), dtype=bool))):
        weight[:, column] = np.bincount(of_operator[which], minlength=len(numbers))
    ranked = sorted(range(len(numbers)), key=lambda number: tuple(weight[number].tolist()))
    chosen = ranked[-1]
    hosts = np.flatnonzero(weight[:, 3])
    if len(hosts) > 1:
        recording = _only(recording, process, chosen)
        marks = _kinds(recording.operators, names)
    return Process(recording, list(numbers)[chosen], _thread(recording.operators, marks), len(hosts) - 1)


def _with_ranges(recording: Recording) -> Recording:
    """In 2021 marks of steps, batches and updates were recorded as operators."""
    operators = recording.operators
    ranges = named(operators, recording.names, words.is_range)
    return replace(recording, operators=replace(operators, marked=operators.marked | ranges))


def _kinds(operators: Operators, names: tuple[str, ...]) -> tuple[Bools, Bools, Bools]:
    """Marks of steps; takes of batches and updates; gradients."""
    return (
        named(operators, names, lambda name: words.step_number(name) is not None),
        named(
            operators,
            names,
            lambda name: words.takes_batch(name) is not None or words.optimizer_call(name) is not None,
        ),
        named(operators, names, words.is_gradient),
    )


def _thread(operators: Operators, marks: tuple[Bools, Bools, Bools]) -> int:
    """The thread with most marks of steps, else most batches and updates, else most operators but gradients."""
    steps, calls, gradients = marks
    for which in (steps, calls, ~gradients, np.ones(len(operators), dtype=bool)):
        if bool(which.any()):
            return int(np.bincount(operators.track[which]).argmax())
    return -1


def _only(recording: Recording, process: Ints, chosen: int) -> Recording:
    """The events of one process, and those of the devices that it called most."""
    operators, calls, device = recording.operators, recording.calls, recording.device
    mine = process[operators.track] == chosen
    called = process[calls.track] == chosen
    python = recording.python
    ran = process[python.track] == chosen
    own = work_of(chosen, device, process[device.track], calls, process[calls.track])
    columns = {name: getattr(device, name)[own] for name in DeviceEvents.__dataclass_fields__}
    return replace(
        recording,
        operators=Operators(
            *_host(operators, mine),
            external=operators.external[mine],
            marked=operators.marked[mine],
            given=operators.given[mine],
            frame=operators.frame[mine],
        ),
        calls=Calls(*_host(calls, called), correlation=calls.correlation[called], bytes=calls.bytes[called]),
        device=DeviceEvents(**columns),
        python=PythonCalls(*_host(python, ran), users=python.users[ran]),
    )


def _host(events: HostEvents, chosen: Bools) -> tuple[Ints, Ints, Numbers, Numbers]:
    some = events.where(chosen)
    return some.start, some.end, some.name, some.track
