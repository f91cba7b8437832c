"""Reduce raw events to tables, piece by piece, so that a record stays small however long the run is.

In:  the folder of one training process: tape segments, and what earlier folds left in `folded.npz`.
Out: `Folded`: exact totals, bounded tables of steps, samples, batches, spans and readings, and the raw events of the
     slowest and the newest steps.

The training thread is read in blocks whose borders depend on the events alone, so that folding as the run goes gives
what folding at its end gives. `folded.npz` is replaced in one go, and only then do the segments go that it holds; a
segment older than its cursor is never read again.

    python -m profiler.analysis.fold PROCESS_DIR
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from profiler.analysis import block, device_track, folded, tracks
from profiler.analysis import labels as lab
from profiler.analysis.block import NO_MOMENTS, Block, Moments, Said
from profiler.analysis.folded import Folded
from profiler.analysis.stack import Bools, fields
from profiler.analysis.tables import rows_of
from profiler.errors import ProfError
from profiler.record import layout, reader
from profiler.record.reader import Cursor, Events, Stream
from profiler.record.vocabulary import Kind, Name, Optimizer

BLOCK_EVENTS = 1 << 17
_SIDE_EVENTS = 1 << 14
SLOWEST_IN_DETAIL = 32
NEWEST_IN_DETAIL = 100
_FIRST_KEPT = 100  # the first steps are never thinned out: warm-up is read from them


def fold(process_dir: Path, final: bool = False, block_events: int = BLOCK_EVENTS) -> Folded:
    """Fold what is closed (with `final` everything) and write `folded.npz`.

    Raises ProfError when the folder can't be read or written.
    """
    if not process_dir.is_dir():
        raise ProfError(f"{process_dir} is not the folder of a training process.")
    with _alone(process_dir):
        result = collect(process_dir, final, block_events)
        try:
            folded.save(result, process_dir / layout.FOLDED)
        except OSError as error:
            raise ProfError(f"{process_dir / layout.FOLDED} could not be written: {error.strerror}.") from error
        _unlink_consumed(process_dir, result)
    return result


def collect(process_dir: Path, final: bool, block_events: int = BLOCK_EVENTS) -> Folded:
    """What `fold` would write, without writing it."""
    state = folded.load(process_dir / layout.FOLDED)
    notes = reader.read_notes(process_dir)[0]
    names = stage_names(notes)
    said = Said(user_labels(names), loss_roots(notes))
    tapes = layout.tapes(process_dir)
    if not state.stream:
        state.stream = training_stream(tapes)
    streams = {
        name: Stream(name, paths[:-1] if name == state.stream and not final else paths, _cursor(state, name))
        for name, paths in tapes.items()
        if name == state.stream or not name.startswith("thread-")
    }
    advance(state, streams, said, final, block_events)
    for stream in streams.values():
        state.cursors[stream.name] = (stream.cursor.seq, stream.cursor.offset)
        state.tell(*stream.notices)
    state.user_parts = {label: names[number] for number, label in said.user_labels.items() if label >= lab.FIRST_USER}
    return state


def fold_thread(events: Events, said: Said) -> tuple[Folded, Moments]:
    """Fold the events of one thread that are in memory, and say who owned it when."""
    state = Folded()
    if len(events) == 0:
        return state, NO_MOMENTS
    done = block.process(events, state.carry, said, final=True)
    if done is None:
        return state, NO_MOMENTS
    _take(state, done, events)
    return state, done.moments


def advance(state: Folded, streams: Mapping[str, Stream], said: Said, final: bool, block_events: int) -> None:
    """Fold the training stream block by block, and the others up to the same moment."""
    training = streams.get(state.stream)
    sides = [stream for stream in streams.values() if stream is not training]
    want = block_events
    while training is not None:
        events, at_break = training.peek(want)
        ends = at_break or (final and len(events) < want)
        if len(events) < want and not ends:
            break
        done = block.process(events, state.carry, said, ends) if len(events) else None
        if done is None and not ends:
            want *= 2
            continue
        want = block_events
        finished = ends and not at_break
        if done is not None:
            training.advance(done.consumed)
            _take(state, done, events)
            for stream in sides:
                _follow(state, stream, done.moments, None if finished else done.until_ns)
        elif finished:
            for stream in sides:
                _follow(state, stream, NO_MOMENTS, None)
        if at_break:
            missing = training.skip_break()
            state.lost_segments += missing
            state.carry = block.Carry(known=state.carry.known, steps=state.carry.steps)
        if finished:
            break
    if training is None and final:
        for stream in sides:
            _follow(state, stream, NO_MOMENTS, None)


def _take(state: Folded, done: Block, events: Events) -> None:
    """Add a block to the tables and totals."""
    state.carry = done.carry
    columns = done.steps
    state.steps.add(columns)
    state.add_totals(columns, done)
    _keep_detail(state, done, events)
    if state.steps.rows > state.steps.limit:
        held = state.steps.columns()
        protected: Bools = np.isin(held["index"], list(state.slowest)) | (held["index"] < _FIRST_KEPT)
        state.steps.thin(protected)
    state.add_spans(done.spans)
    for label, name, value in zip(done.values["label"], done.values["name"], done.values["value"], strict=True):
        state.raise_peak(int(name), int(label), int(value))


def _keep_detail(state: Folded, done: Block, events: Events) -> None:
    """Keep the raw events of the slowest and of the newest steps."""
    index, wall = done.steps["index"], done.steps["wall_ns"]
    count = len(index)
    slow = np.argsort(-wall, kind="stable")[:SLOWEST_IN_DETAIL] if count else np.empty(0, dtype=np.int64)
    for row in slow.tolist():
        state.slowest[int(index[row])] = (int(wall[row]), events[slice(*done.ranges[row].tolist())].copy())
    kept = sorted(state.slowest.items(), key=lambda item: (-item[1][0], item[0]))[:SLOWEST_IN_DETAIL]
    state.slowest = dict(kept)
    for row in range(max(count - NEWEST_IN_DETAIL, 0), count):
        state.newest[int(index[row])] = events[slice(*done.ranges[row].tolist())].copy()
    for number in sorted(state.newest)[:-NEWEST_IN_DETAIL]:
        del state.newest[number]


def _follow(state: Folded, stream: Stream, moments: Moments, until_ns: int | None) -> None:
    """Read a track beside the training thread up to a moment; None: to its end."""
    if stream.name == "sampler":
        _drain(stream, until_ns, lambda events, limit: _take_samples(state, events, moments, limit))
    elif stream.name == device_track.STREAM:
        state.recent = state.recent.then(moments, device_track.RECENT_MOMENTS + len(moments.time_ns))
        _drain(stream, until_ns, lambda events, limit: _take_device_steps(state, events, limit))
        state.recent = state.recent.then(NO_MOMENTS, device_track.RECENT_MOMENTS)
    elif stream.name.startswith("wsampler-"):
        _drain(stream, until_ns, lambda events, limit: _take_worker_samples(state, events, limit))
    elif stream.name.startswith("worker-"):
        pid = int(stream.name.removeprefix("worker-"))
        _drain(stream, until_ns, lambda events, limit: _take_batches(state, events, pid, limit))


def _drain(stream: Stream, until_ns: int | None, take: Callable[[Events, int | None], int]) -> None:
    """Give a stream's events to `take` until it has all that lies before the moment."""
    want = _SIDE_EVENTS
    while True:
        events, at_break = stream.peek(want)
        everything = len(events) < want
        if at_break:
            stream.advance(take(events, None))
            stream.skip_break()
            continue
        if everything and until_ns is None:
            stream.advance(take(events, None))
            return
        # a moment inside the window: the last event's own time, when there is more to come
        limit = _last_time(events) if not everything else until_ns
        if until_ns is not None and limit is not None:
            limit = min(limit, until_ns)
        consumed = take(events, limit)
        stream.advance(consumed)
        if everything or (until_ns is not None and limit == until_ns):
            return
        want = _SIDE_EVENTS if consumed else want * 2


def _last_time(events: Events) -> int:
    """The time of the last timed event."""
    timed = np.flatnonzero((events[:, 0] & np.uint64(0xFF)) != np.uint64(Kind.VALUE))
    return int(events[timed[-1], 1]) if len(timed) else 0


def _take_samples(state: Folded, events: Events, moments: Moments, until_ns: int | None) -> int:
    consumed, samples, readings = tracks.read_sampler(events, moments, until_ns)
    state.samples.add(samples)
    state.samples.thin()
    state.readings.add(readings)
    state.readings.thin()
    for name in (
        Name.RSS_BYTES,
        Name.DEVICE_ALLOCATED_BYTES,
        Name.DEVICE_RESERVED_BYTES,
        Name.DEVICE_PEAK_BYTES,
    ):
        for table in (samples, readings):
            column = table.get(f"value_{int(name)}")
            if column is None or len(column) == 0:
                continue
            labels = table.get("label", np.full(len(column), lab.OUTSIDE))
            for label in np.unique(labels).tolist():
                state.raise_peak(int(name), label, int(column[labels == label].max()))
    return consumed


def _take_batches(state: Folded, events: Events, pid: int, until_ns: int | None) -> int:
    consumed, batches = tracks.read_worker(events, until_ns)
    count = rows_of(batches)
    if count:
        state.worker_pids.add(pid)
        state.batches_total += count
        state.batches.add({**batches, "pid": np.full(count, pid, dtype=np.int64)})
        state.batches.thin()
    return consumed


def _take_device_steps(state: Folded, events: Events, until_ns: int | None) -> int:
    consumed, steps = device_track.read_device(events, state.recent, until_ns)
    state.device_steps.add(steps)
    state.device_steps.thin()
    return consumed


def _take_worker_samples(state: Folded, events: Events, until_ns: int | None) -> int:
    consumed, samples, _ = tracks.read_sampler(events, NO_MOMENTS, until_ns)
    kept = {name: samples[name] for name in ("time_ns", "site")}
    state.worker_samples.add(kept)
    state.worker_samples.thin()
    return consumed


def training_stream(tapes: Mapping[str, list[Path]]) -> str:
    """The thread that trains: most optimizer steps, then most backward passes; "" when no thread was recorded."""
    threads = sorted(name for name in tapes if name.startswith("thread-"))
    if len(threads) < 2:
        return threads[0] if threads else ""
    return max(threads, key=lambda name: _trained(tapes[name]))


def _trained(paths: list[Path]) -> tuple[int, int, int]:
    """Optimizer steps, backward passes and events of a stream."""
    steps = backwards = total = 0
    for path in paths:
        codes = fields(reader.read_segment(path)[0])
        push = codes.kind == Kind.PUSH
        steps += int(np.count_nonzero(push & (codes.name == Name.OPTIMIZER) & (codes.detail == Optimizer.STEP)))
        backwards += int(np.count_nonzero(push & (codes.name == Name.BACKWARD)))
        total += len(codes.kind)
    return steps, backwards, total


def loss_roots(notes: Iterable[dict[str, Any]]) -> frozenset[int]:
    """The roots that were seen to return the loss itself."""
    outputs = reader.of_kind(notes, "root_output")
    return frozenset(note["id"] for note in outputs if note.get("has_loss") and isinstance(note.get("id"), int))


def stage_names(notes: Iterable[dict[str, Any]]) -> dict[int, str]:
    """Names of the user's own stages, by the numbers that events give them."""
    found = reader.of_kind(notes, "stage_name")
    return {int(note["id"]): str(note["name"]) for note in found if isinstance(note.get("id"), int)}


def user_labels(names: Mapping[int, str]) -> dict[int, int]:
    """Labels of the user's own stages, by their numbers: a stage's or span's where the name is one of those."""
    result: dict[int, int] = {}
    slot = 0
    for number in sorted(names):
        known = lab.label_of_name(names[number])
        if known is not None:
            result[number] = known
        elif slot < lab.USER_PARTS:
            result[number] = lab.FIRST_USER + slot
            slot += 1
    return result


def over_budget(process_dir: Path, limit_bytes: int) -> bool:
    """Whether a training process's record takes more room on the disk than it may."""
    used = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(process_dir):
            with contextlib.suppress(OSError):
                status = entry.stat()
                used += getattr(status, "st_blocks", status.st_size // 512 + 1) * 512
    return used > limit_bytes


def _cursor(state: Folded, stream: str) -> Cursor:
    return Cursor(*state.cursors.get(stream, (0, 0)))


def _unlink_consumed(process_dir: Path, state: Folded) -> None:
    """Remove segments that the tables hold, and closed ones of threads that do not train."""
    for stream, paths in layout.tapes(process_dir).items():
        if stream.startswith("thread-") and stream != state.stream:
            gone = paths[:-1]
        else:
            seq = state.cursors.get(stream, (0, 0))[0]
            gone = [path for path in paths if layout.tape_seq(path) < seq]
            gone += _left_by_ended_worker(stream, [path for path in paths if path not in gone], state)
        for path in gone:
            with contextlib.suppress(OSError):
                path.unlink()


def _left_by_ended_worker(stream: str, paths: list[Path], state: Folded) -> list[Path]:
    """The last segment of a worker that has ended, once all of it was read."""
    if not stream.startswith(("worker-", "wsampler-")) or len(paths) != 1:
        return []
    pid = int(stream.rpartition("-")[2])
    if _alive(pid):
        return []
    seq, offset = state.cursors.get(stream, (0, 0))
    events, _ = reader.read_segment(paths[0])
    return paths if layout.tape_seq(paths[0]) == seq and len(events) <= offset else []


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _alone(process_dir: Path) -> Iterator[None]:
    """One fold at a time in a folder; the lock goes with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # not on this system: capture starts one fold at a time anyway
        yield
        return
    try:
        file = (process_dir / "fold.lock").open("wb")
    except OSError as error:
        raise ProfError(f"{process_dir} can't be written to: {error.strerror}.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Fold one folder; 0 when done, 2 with a sentence on stderr when it can't be."""
    paths = [argument for argument in arguments if not argument.startswith("-")]
    if len(paths) != 1:
        print("usage: python -m profiler.analysis.fold [--final] PROCESS_DIR", file=sys.stderr)
        return 2
    try:
        fold(Path(paths[0]), final="--final" in arguments)
    except ProfError as error:
        print(f"prof: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
