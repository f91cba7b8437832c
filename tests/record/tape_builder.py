"""Tapes on a fake clock, written by hand: the truth that reader and analysis are tested against.

    tape = Tape("thread-1")
    with tape.open(Name.FORWARD, flags=TRAIN):
        tape.wait(2 * MS)
    tape.write(directory)

`Training` strings the calls of a loop together (`batch`, `forward`, `backward`, …); `write_run` makes a run folder.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from profiler.record import layout
from profiler.record import vocabulary as words
from profiler.record.vocabulary import DataWait, Flag, Forward, Kind, Name, Optimizer

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000
TRAIN = Flag.TRAINING | Flag.GRAD
START_NS = 50 * SECOND
UNIX_NS = 1_700_000_000 * SECOND
SEGMENT_EVENTS = (words.SEGMENT_BYTES - words.HEADER_BYTES) // words.EVENT_BYTES


class Tape:
    """One stream. `now` is the clock; share it between tapes by passing another tape as `clock`."""

    def __init__(self, stream: str, start_ns: int = START_NS, clock: Tape | None = None, pid: int = 4242) -> None:
        self.stream = stream
        self.pid = pid
        self.events: list[tuple[int, int]] = []
        self._clock = clock
        self._now = start_ns

    @property
    def now(self) -> int:
        return self._clock.now if self._clock else self._now

    def wait(self, ns: int) -> None:
        if self._clock:
            self._clock.wait(ns)
        else:
            self._now += ns

    def push(self, name: int, detail: int = 0, obj: int = 0, flags: int = 0) -> None:
        self.events.append((words.code(Kind.PUSH, name, detail, obj, flags), self.now))

    def pop(self, name: int, detail: int = 0, obj: int = 0, flags: int = 0) -> None:
        self.events.append((words.code(Kind.POP, name, detail, obj, flags), self.now))

    @contextmanager
    def open(self, name: int, detail: int = 0, obj: int = 0, flags: int = 0, pop_flags: int = 0) -> Iterator[None]:
        self.push(name, detail, obj, flags)
        yield
        self.pop(name, detail, obj, pop_flags)

    def call(self, name: int, ns: int, detail: int = 0, obj: int = 0, flags: int = 0, pop_flags: int = 0) -> None:
        with self.open(name, detail, obj, flags, pop_flags):
            self.wait(ns)

    def mark(self, name: int) -> None:
        self.events.append((words.code(Kind.MARK, name), self.now))

    def value(self, name: int, number: int) -> None:
        self.events.append((words.code(Kind.VALUE, name), number))

    def pause(self, ns: int) -> None:
        """A garbage collection that takes `ns` and ends now."""
        self.wait(ns)
        self.events.append((words.pause_code(Name.GARBAGE_COLLECTION, ns), self.now))

    def sample(self, site: int, at_ns: int | None = None, **values: int) -> None:
        self.events.append((words.sample_code(site), self.now if at_ns is None else at_ns))
        for name, number in values.items():
            self.value(Name[name.upper()], number)

    def resources(self, at_ns: int | None = None, **values: int) -> None:
        self.events.append((words.code(Kind.MARK, Name.RESOURCES), self.now if at_ns is None else at_ns))
        for name, number in values.items():
            self.value(Name[name.upper()], number)

    def write(
        self, directory: Path, segment_events: int = SEGMENT_EVENTS, first: int = 0, stop: int | None = None
    ) -> list[Path]:
        """Write events [first, stop) in segments of so many; `first` must begin a segment."""
        directory.mkdir(parents=True, exist_ok=True)
        events = self.events[:stop]
        paths = []
        for start in range(first, max(len(events), first + 1), segment_events):
            seq = start // segment_events
            path = layout.tape_path(directory, self.stream, seq)
            created = next((value for code, value in events[start:] if code & 0xFF != Kind.VALUE), START_NS)
            write_segment(path, events[start : start + segment_events], seq, segment_events, created, self.pid)
            paths.append(path)
        return paths


def write_segment(
    path: Path,
    events: Sequence[tuple[int, int]],
    seq: int = 0,
    capacity: int = SEGMENT_EVENTS,
    created_ns: int = START_NS,
    pid: int = 4242,
) -> None:
    """A segment as the recorder leaves it: header, events, zeros."""
    header = struct.pack("<8sIIIIQQ", words.TAPE_MAGIC, pid, 1, seq, 0, created_ns, UNIX_NS)
    body = b"".join(struct.pack("<QQ", *event) for event in events)
    zeros = (capacity - len(events)) * words.EVENT_BYTES
    path.write_bytes(header.ljust(words.HEADER_BYTES, b"\0") + body + bytes(zeros))


class Training(Tape):
    """The training thread of a loop, call by call. Times are in nanoseconds; loader 1, root 1, optimizer 1."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("thread-1", **arguments)

    def iterator(self, ns: int = 100 * US, loader: int = 1) -> None:
        self.call(Name.DATA_WAIT, ns, DataWait.ITER, loader)

    def batch(self, ns: int = 200 * US, loader: int = 1) -> None:
        self.call(Name.DATA_WAIT, ns, DataWait.NEXT, loader)

    def exhausted(self, ns: int = 50 * US, loader: int = 1) -> None:
        self.call(Name.DATA_WAIT, ns, DataWait.NEXT, loader, pop_flags=Flag.EXHAUSTED)

    def copy(self, ns: int = 30 * US) -> None:
        self.call(Name.HOST_TO_DEVICE, ns)

    def forward(self, ns: int = 300 * US, root: int = 1, flags: int = TRAIN, pop_flags: int = 0) -> None:
        self.call(Name.FORWARD, ns, Forward.MODULE, root, flags, pop_flags)

    def loss(self, ns: int = 40 * US) -> None:
        """A loss module."""
        self.call(Name.FORWARD, ns, Forward.LOSS, 9, TRAIN)

    def backward(self, ns: int = 500 * US) -> None:
        self.call(Name.BACKWARD, ns)

    def zero_grad(self, ns: int = 10 * US, optimizer: int = 1) -> None:
        self.call(Name.OPTIMIZER, ns, Optimizer.ZERO_GRAD, optimizer)

    def clip(self, ns: int = 15 * US) -> None:
        self.call(Name.OPTIMIZER, ns, Optimizer.CLIP)

    def update(self, ns: int = 100 * US, optimizer: int = 1) -> None:
        self.call(Name.OPTIMIZER, ns, Optimizer.STEP, optimizer)

    def scheduler(self, ns: int = 5 * US) -> None:
        self.call(Name.OPTIMIZER, ns, Optimizer.SCHEDULER)

    def step(self, other_ns: int = 20 * US, **times: int) -> None:
        """One plain step: batch, zero_grad, forward, a functional loss of 60 µs, backward, update, other."""
        self.batch(times.get("batch", 200 * US))
        self.zero_grad()
        self.forward(times.get("forward", 300 * US))
        self.wait(60 * US)
        self.backward(times.get("backward", 500 * US))
        self.update(times.get("update", 100 * US))
        self.wait(other_ns)


PLAIN_STEP_NS = 200 * US + 10 * US + 300 * US + 60 * US + 500 * US + 100 * US + 20 * US


def write_notes(directory: Path, notes: Sequence[dict[str, Any]]) -> None:
    """notes.jsonl of a training process."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"time_ns": START_NS, **note}) for note in notes]
    (directory / layout.NOTES).write_text("".join(line + "\n" for line in lines))


def write_run(
    run: Path,
    tapes: Sequence[Tape],
    notes: Sequence[dict[str, Any]] = (),
    pid: int = 4242,
    process: dict[str, Any] | None = None,
    run_json: dict[str, Any] | None = None,
    segment_events: int = SEGMENT_EVENTS,
) -> Path:
    """A whole run folder of one rank; the training process's folder is returned."""
    directory = layout.rank_directory(run, 0) / str(pid)
    for tape in tapes:
        tape.write(directory, segment_events)
    write_notes(directory, notes)
    (run / layout.PROCESSES).mkdir(parents=True, exist_ok=True)
    checked_in = {
        "pid": pid,
        "ppid": 1,
        "argv": ["train.py"],
        "python": "3.11.9",
        "torch": "2.13.0",
        "rank": 0,
        "world_size": 1,
        "started_unix_s": UNIX_NS / SECOND - 2,
        "started_perf_ns": START_NS - 2 * SECOND,
        **(process or {}),
    }
    (run / layout.PROCESSES / f"{pid}.json").write_text(json.dumps(checked_in))
    written = {
        "schema_version": 1,
        "name": run.name,
        "command": ["train.py"],
        "cwd": str(run),
        "script": "train.py",
        "started_unix_s": UNIX_NS / SECOND - 3,
        "ended_unix_s": UNIX_NS / SECOND + 60,
        "duration_s": 63.0,
        "exit_code": 0,
        "cores": 2,
        "memory_bytes": 8 << 30,
        **(run_json or {}),
    }
    (run / layout.RUN_JSON).write_text(json.dumps(written))
    return directory
