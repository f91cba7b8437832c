"""The training thread of a trace in the words of the record.

In:  the events of one process.
Out: `Host`: PUSH, POP and MARK events as a live run records them, so that the same analysis cuts and measures them.

A backward pass is what the graph's own threads do from its first node to its last, or the nodes themselves where the
training thread runs them (on a CPU); forward is what comes before it, since the last batch, update or backward pass.
Between steps that the profiler marked lies only the profiler: that time is taken out, see `Clock`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiler.analysis.device.copies import copy_kind
from profiler.analysis.device.enclosing import top_level
from profiler.analysis.device.launches import Launches
from profiler.analysis.intervals import Intervals, Ints, union
from profiler.analysis.trace import words
from profiler.analysis.trace.evaluation import without_evaluation
from profiler.analysis.trace.process import Process, graph_threads, named
from profiler.record.reader import Events
from profiler.record.trace.recording import HostEvents, Work
from profiler.record.vocabulary import DataWait, Flag, Forward, Kind, Name, Optimizer, code

_FORWARD_OPERATORS = 8  # operators of the loop's own between two nodes of a graph that end a backward pass
_PAUSE_NS = 1_000_000  # without an operator, from which a stretch of what looks like forward is none …
_PAUSE_SHARE = 0.1  # … where it is also so much of it


@dataclass(frozen=True, slots=True)
class Clock:
    """Time without the stretches between marked steps. Nanoseconds."""

    cut_start: Ints
    cut_end: Ints

    def to(self, at: Ints) -> Ints:
        """Moments without what was cut before them."""
        return at - Intervals(self.cut_start, self.cut_end).before(at)


@dataclass(frozen=True, slots=True)
class Host:
    """What the training thread did."""

    events: Events  # on `clock`
    clock: Clock
    marked: Intervals | None  # the steps that the profiler marked; None where it marked none
    first_number: int | None  # of the first of them
    data_wait: Intervals  # the loop waits for its batch
    communication: Intervals  # hosts exchange data themselves
    backward: Intervals
    iterators: tuple[str, ...]  # classes of the DataLoader's iterators
    optimizers: tuple[str, ...]  # classes
    evaluations: int = 0  # marked steps that held one, whose time is not theirs
    updated: int = 0  # marked steps with an update


def read_host(process: Process, launches: Launches) -> Host:
    """The thread's own time in stages."""
    recording = process.recording
    operators, names = recording.operators, recording.names
    on_thread = operators.where(operators.track == process.thread)
    marks = named(on_thread, names, lambda name: words.step_number(name) is not None)
    marked, first_number = _ordered(on_thread.where(marks), names)
    takes = on_thread.where(named(on_thread, names, lambda name: words.takes_batch(name) is not None))
    updates = on_thread.where(named(on_thread, names, lambda name: words.optimizer_call(name) is not None))
    updates = updates.where(top_level(updates.start, updates.end))
    takes = takes.where(top_level(takes.start, takes.end))
    passes = _backward_passes(process, marked, takes, updates)
    evaluations = 0
    if marked is not None:
        marked, evaluations = without_evaluation(marked, _began(process), takes, passes, updates)
    stepping = updates.where(named(updates, names, words.is_update))
    pushes = [*_takes(takes, names), *_updates(updates, names), *_copies(process, launches)]
    pushes += [(start, end, _BACKWARD) for start, end in _pairs(passes)]
    forwards = _forwards(passes, takes, stepping, marked, on_thread)
    if marked is not None and len(takes) == 0 and not recording.thinned:  # of a thinned one some are gone
        takes = _users_takes(process, updates, passes, marked)
        forwards = forwards.subtract(union(takes.start, takes.end))  # a batch may be taken ahead, after forward
        pushes += _takes(takes, names)
    gloo = operators.where(named(operators, names, words.is_host_collective))
    if len(recording.device) == 0 and not recording.thinned:  # of a device its own clock tells what it computes
        forwards = forwards.subtract(_before(on_thread, names, forwards)).subtract(_pauses(process, forwards))
        pushes += _waits_for_hosts(process, union(gloo.start, gloo.end), forwards, passes, updates)
    pushes += [(start, end, _FORWARD) for start, end in _pairs(forwards)]
    if marked is None and pushes:
        pushes += _tail(process, max(end for _, end, _ in pushes))
    clock = _clock(marked)
    return Host(
        events=_tape(pushes, marked, clock),
        clock=clock,
        marked=marked,
        first_number=first_number,
        data_wait=union(takes.start, takes.end),
        communication=union(gloo.start, gloo.end),
        backward=passes,
        iterators=tuple(sorted({words.takes_batch(names[number]) or "" for number in set(takes.name.tolist())})),
        evaluations=evaluations,
        updated=_updated(marked, stepping),
        optimizers=tuple(sorted({(words.optimizer_call(names[n]) or ("", ""))[1] for n in set(updates.name.tolist())})),
    )


Push = tuple[int, int, int]  # start, end, code word less its kind

_BACKWARD = code(0, Name.BACKWARD)
_FORWARD = code(0, Name.FORWARD, Forward.MODULE, 0, Flag.TRAINING | Flag.GRAD)
_COPY = code(0, Name.HOST_TO_DEVICE)
_REST = code(0, Name.USER_STAGE)
_COMMUNICATION = code(0, Name.COMMUNICATION)


def _began(process: Process) -> Ints:
    """When the outermost operators of the training thread began, in order."""
    operators = process.recording.operators
    own = operators.where((operators.track == process.thread) & ~operators.marked)
    own = own.where(~named(own, process.recording.names, words.is_range))
    return own.start[top_level(own.start, own.end)]


def _pairs(found: Intervals) -> list[tuple[int, int]]:
    return list(zip(found.start.tolist(), found.end.tolist(), strict=True))


def _ordered(marks: HostEvents, names: tuple[str, ...]) -> tuple[Intervals | None, int | None]:
    """The marked steps in time, and the number of the first; overlapping ones are cut at the next start."""
    if len(marks) == 0:
        return None, None
    order = np.argsort(marks.start, kind="stable")
    start, end, name = marks.start[order], marks.end[order], marks.name[order]
    distinct = np.concatenate(([True], start[1:] > start[:-1]))
    start, end, name = start[distinct], end[distinct], name[distinct]
    end = np.minimum(end, np.append(start[1:], end[-1:]))
    real = end > start
    if not bool(real.any()):
        return None, None
    return Intervals(start[real], end[real]), words.step_number(names[int(name[real][0])])


def _takes(takes: HostEvents, names: tuple[str, ...]) -> list[Push]:
    """Takes of batches; each kind of iterator counts as a loader."""
    pushes = []
    kinds: dict[str, int] = {}
    for start, end, name in zip(takes.start.tolist(), takes.end.tolist(), takes.name.tolist(), strict=True):
        iterator = words.takes_batch(names[name]) or ""
        number = kinds.setdefault(iterator, len(kinds))
        flags = Flag.WORKERS if "Multi" in iterator else 0
        pushes.append((start, end, code(0, Name.DATA_WAIT, DataWait.NEXT, number, flags)))
    return pushes


def _users_takes(process: Process, updates: HostEvents, passes: Intervals, steps: Intervals) -> HostEvents:
    """Takes of batches by the user's own ranges; none that holds a part of the training, or lies in one."""
    operators, names = process.recording.operators, process.recording.names
    own = operators.marked & (operators.track == process.thread)
    takes = operators.where(own & named(operators, names, words.users_batch))
    takes = takes.where(top_level(takes.start, takes.end))
    training = passes.unite(union(updates.start, updates.end))
    among = union(takes.start, takes.end).intersect(training).within(takes.start, takes.end) > 0
    begins = np.sort(steps.start)
    among |= np.searchsorted(begins, takes.end) > np.searchsorted(begins, takes.start, side="right")
    return takes.where(~among)


def _updates(updates: HostEvents, names: tuple[str, ...]) -> list[Push]:
    pushes = []
    kinds: dict[str, int] = {}
    for start, end, name in zip(updates.start.tolist(), updates.end.tolist(), updates.name.tolist(), strict=True):
        what, optimizer = words.optimizer_call(names[name]) or ("step", "")
        detail = Optimizer.STEP if what == "step" else Optimizer.ZERO_GRAD
        number = kinds.setdefault(optimizer, len(kinds))
        pushes.append((start, end, code(0, Name.OPTIMIZER, detail, number)))
    return pushes


def _copies(process: Process, launches: Launches) -> list[Push]:
    """Calls of the training thread that copy to the device."""
    recording = process.recording
    device, calls, names = recording.device, recording.calls, recording.names
    copies = (device.work == Work.COPY) & (launches.call >= 0)
    to_device = {number for number in np.unique(device.name[copies]).tolist() if copy_kind(names[number])[:3] == "h2d"}
    call = np.unique(launches.call[copies & np.isin(device.name, list(to_device))])
    call = call[calls.track[call] == process.thread]
    found = union(calls.start[call], calls.end[call])
    return [(start, end, _COPY) for start, end in _pairs(found)]


def _backward_passes(process: Process, steps: Intervals | None, takes: HostEvents, updates: HostEvents) -> Intervals:
    """Each backward pass, from its first node to its last."""
    recording = process.recording
    operators, names, thread = recording.operators, recording.names, process.thread
    nodes = named(operators, names, words.is_gradient)
    engines = np.unique(operators.track[nodes & (operators.track != thread)])
    if len(engines):
        of_engine = np.isin(operators.track, engines)
        start, end = [operators.start[of_engine | nodes]], [operators.end[of_engine | nodes]]
        own = (operators.track == thread) & ~nodes & ~operators.marked
        breaks = _outside(operators.start[own], operators.where(nodes & (operators.track == thread)))
        least = 1
    else:
        start, end = [operators.start[nodes]], [operators.end[nodes]]
        on_thread = operators.where((operators.track == thread) & ~operators.marked)
        outer = on_thread.where(top_level(on_thread.start, on_thread.end))
        breaks = outer.start[~named(outer, names, words.is_gradient)]
        least = _FORWARD_OPERATORS
    whole = union(np.concatenate(start), np.concatenate(end))
    hard = np.concatenate((takes.start, updates.start, steps.start if steps is not None else takes.start[:0]))
    return _joined(whole, np.sort(breaks), np.sort(hard), least)


def _outside(at: Ints, nodes: HostEvents) -> Ints:
    """Moments in none of these events."""
    return at[~union(nodes.start, nodes.end).holds(at)]


def _joined(parts: Intervals, breaks: Ints, hard: Ints, least: int) -> Intervals:
    """Parts of one pass become one: those between which the loop did nothing of its own."""
    if len(parts) < 2:
        return parts
    soft = np.searchsorted(breaks, parts.start[1:]) - np.searchsorted(breaks, parts.end[:-1])
    cut = np.searchsorted(hard, parts.start[1:]) - np.searchsorted(hard, parts.end[:-1])
    new = np.concatenate(([True], (soft >= least) | (cut > 0)))
    first = np.flatnonzero(new)
    return Intervals(parts.start[first], parts.end[np.append(first[1:] - 1, len(parts) - 1)])


def _forwards(
    passes: Intervals,
    takes: HostEvents,
    stepping: HostEvents,
    steps: Intervals | None,
    on_thread: HostEvents,
) -> Intervals:
    """What comes before each backward pass, back to the last batch, update, backward pass or start of a step."""
    if len(passes) == 0:
        return passes
    passes = passes.where(~union(stepping.start, stepping.end).holds(passes.start))  # an optimizer calls its closure
    edges = np.concatenate((takes.end, stepping.end, passes.end, steps.start if steps is not None else takes.end[:0]))
    if len(on_thread):
        edges = np.append(edges, on_thread.start.min())
    edges.sort()
    place = np.searchsorted(edges, passes.start, side="right") - 1
    begin = np.where(place >= 0, edges[np.maximum(place, 0)], passes.start)
    return union(begin, passes.start)


def _before(on_thread: HostEvents, names: tuple[str, ...], forwards: Intervals) -> Intervals:
    """What lies before the one range of the user's that says where forward begins."""
    told = np.sort(on_thread.start[named(on_thread, names, words.is_whole_forward)])
    first, behind = np.searchsorted(told, forwards.start), np.searchsorted(told, forwards.end)
    alone = behind - first == 1
    return Intervals(forwards.start[alone], told[first[alone]])


def _pauses(process: Process, forwards: Intervals) -> Intervals:
    """Long stretches before a backward pass in which no operator ran, nor a range around the model."""
    operators, names = process.recording.operators, process.recording.names
    computes = ~operators.marked & ~named(operators, names, words.is_range)
    computes |= operators.marked & named(operators, names, words.is_forward)
    computes &= operators.track == process.thread
    idle = forwards.subtract(union(operators.start[computes], operators.end[computes]))
    place = np.searchsorted(forwards.start, idle.start, side="right") - 1
    length, whole = idle.end - idle.start, (forwards.end - forwards.start)[np.maximum(place, 0)]
    return idle.where((length >= _PAUSE_NS) & (length >= _PAUSE_SHARE * whole))


def _waits_for_hosts(
    process: Process, exchanging: Intervals, forwards: Intervals, passes: Intervals, updates: HostEvents
) -> list[Push]:
    """Hosts exchange data, and neither the training thread nor one that runs its graph computes meanwhile."""
    operators, names = process.recording.operators, process.recording.names
    threads = [process.thread, *graph_threads(process)]
    computes = (
        np.isin(operators.track, threads) & ~operators.marked & ~named(operators, names, words.is_host_collective)
    )
    exposed = exchanging.subtract(union(operators.start[computes], operators.end[computes]))
    found = []
    for around in (forwards, passes, union(updates.start, updates.end)):
        found += _pairs(exposed.intersect(around))
        exposed = exposed.subtract(around)
    return [(start, end, _COMMUNICATION) for start, end in [*found, *_pairs(exposed)]]


def _updated(steps: Intervals | None, stepping: HostEvents) -> int:
    """How many of the marked steps an optimizer's step lies in."""
    if steps is None:
        return 0
    inside = stepping.start[steps.holds(stepping.start)]
    return len(np.unique(np.searchsorted(steps.start, inside, side="right")))


def _tail(process: Process, last: int) -> list[Push]:
    """Without marks the last step ends when the device is done with it, where the loop does nothing more."""
    operators, device = process.recording.operators, process.recording.device
    own = (operators.track == process.thread) & ~operators.marked & (operators.start >= last)
    until = int(device.end.max()) if len(device) else last
    return [(last, until, _REST)] if until > last and np.count_nonzero(own) < _FORWARD_OPERATORS else []


def _clock(steps: Intervals | None) -> Clock:
    nothing = np.empty(0, dtype=np.int64)
    if steps is None:
        return Clock(nothing, nothing)
    between = steps.complement(*steps.bounds)
    return Clock(between.start, between.end)


def _tape(pushes: list[Push], steps: Intervals | None, clock: Clock) -> Events:
    """Events of the stages, each within the one around it, in time; with marked steps only what lies in them."""
    table = np.array([push[:2] for push in pushes], dtype=np.int64).reshape(-1, 2)
    if steps is not None:
        table = np.clip(table, *steps.bounds)
    times = clock.to(table.reshape(-1)).reshape(-1, 2)
    rows: list[tuple[int, int]] = []
    open_ends: list[tuple[int, int]] = []

    def close(until: int) -> None:
        while open_ends and open_ends[-1][0] <= until:
            end, word = open_ends.pop()
            rows.append((Kind.POP | word, end))

    in_order = sorted(
        (start, -end, word) for (start, end), (_, _, word) in zip(times.tolist(), pushes, strict=True) if end > start
    )
    for start, minus_end, word in in_order:
        close(start)
        end = min(-minus_end, open_ends[-1][0]) if open_ends else -minus_end
        rows.append((Kind.PUSH | word, start))
        open_ends.append((end, word))
    close(1 << 62)
    events = np.array(rows, dtype=np.uint64).reshape(-1, 2)
    return _with_marks(events, steps, clock) if steps is not None else events


def _with_marks(table: Events, steps: Intervals, clock: Clock) -> Events:
    """Put in where steps begin, and where the last one ends."""
    at = clock.to(np.append(steps.start, steps.end[-1:]))
    marks = np.column_stack((np.full(len(at), code(Kind.MARK, Name.STEP), dtype=np.uint64), at.astype(np.uint64)))
    # at one moment POPs come first, then the mark, then PUSHes
    rank = np.where((table[:, 0] & np.uint64(0xFF)) == np.uint64(Kind.POP), 0, 2)
    every = np.concatenate((table, marks))
    order = np.lexsort((np.arange(len(every)), np.append(rank, np.ones(len(marks))), every[:, 1]))
    return every[order]
