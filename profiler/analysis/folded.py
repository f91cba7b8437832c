"""What a training process's events were reduced to, and how that lies on the disk.

In:  rows of blocks, samples, batches; or `folded.npz`.
Out: `Folded`; or `folded.npz`, replaced in one go.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.asides import Columns
from profiler.analysis.block import NO_MOMENTS, Block, Carry, Moments
from profiler.analysis.loop import Known
from profiler.analysis.stack import Ints
from profiler.analysis.tables import Table, packed, rows_of
from profiler.record.reader import NO_EVENTS, Events
from profiler.record.vocabulary import STAGE_ORDER

FORMAT = 1
STEP_ROWS = 500_000
SAMPLE_ROWS = 200_000
BATCH_ROWS = 200_000
READING_ROWS = 50_000
SPAN_ROWS = 4_000
DEVICE_ROWS = 100_000
_TABLES = ("steps", "samples", "batches", "readings", "spans", "worker_samples", "device_steps")


@dataclass(slots=True)
class Folded:
    """Tables and totals of one training process. Times are perf_counter ns; grows by `fold.advance` alone.

    steps:    index, start_ns, wall_ns, part_<label> (ns), micro_batches, batches, gc_ns, events, flags, weight;
              of communication, where there is any, the columns that `exchanges` describes
    samples:  time_ns, site, label, step, value_<name>, weight
    batches:  start_ns, wall_ns, load_ns, preprocess_ns, collate_ns, run_delay_ns, loader, pid, value_…, weight
    readings: time_ns, value_<name>, weight
    spans:    label, start_ns, end_ns, detail, steps_before, weight
    worker_samples: time_ns, site, weight
    device_steps: index, wall_ns, part_<label> (ns on the device's clock), weight
    """

    stream: str = ""
    cursors: dict[str, tuple[int, int]] = field(default_factory=dict)
    carry: Carry = field(default_factory=Carry)
    steps: Table = field(default_factory=lambda: Table(STEP_ROWS))
    samples: Table = field(default_factory=lambda: Table(SAMPLE_ROWS))
    batches: Table = field(default_factory=lambda: Table(BATCH_ROWS))
    readings: Table = field(default_factory=lambda: Table(READING_ROWS))
    spans: Table = field(default_factory=lambda: Table(SPAN_ROWS))
    worker_samples: Table = field(default_factory=lambda: Table(SAMPLE_ROWS))
    device_steps: Table = field(default_factory=lambda: Table(DEVICE_ROWS))
    recent: Moments = field(default_factory=lambda: NO_MOMENTS)  # where the device's clock is read
    slowest: dict[int, tuple[int, Events]] = field(default_factory=dict)  # index → wall ns, raw events
    newest: dict[int, Events] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)  # exact, over all steps: wall_ns, part_<label>, …
    calls: Ints = field(default_factory=lambda: np.zeros(len(STAGE_ORDER), dtype=np.int64))
    peaks: dict[int, dict[int, int]] = field(default_factory=dict)  # value name → label → highest reading
    span_totals: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # label → count, total ns, longest ns
    marks: dict[int, int] = field(default_factory=dict)
    worker_pids: set[int] = field(default_factory=set)
    user_parts: dict[int, str] = field(default_factory=dict)
    batches_total: int = 0
    pauses: int = 0
    pause_ns: int = 0
    last_ns: int = 0
    first_ns: int = 0
    lost_segments: int = 0
    repaired_blocks: int = 0
    cut_short: bool = False
    notices: list[str] = field(default_factory=list)

    def tell(self, *notices: str) -> None:
        """Remember what the reader must know, once."""
        self.notices += [notice for notice in dict.fromkeys(notices) if notice not in self.notices]

    def add_totals(self, columns: Columns, done: Block) -> None:
        """Count a block's steps and events."""
        for name, column in columns.items():
            if name not in ("index", "start_ns", "flags") and not name.endswith(("_from", "_to")):
                self.totals[name] = self.totals.get(name, 0) + int(column.sum())
        self.calls = self.calls + done.calls
        self.pauses += done.pauses
        self.pause_ns += done.pause_ns
        self.marks = {**self.marks, **done.marks}
        self.repaired_blocks += done.repaired
        self.cut_short = done.cut_short
        times = done.moments.time_ns
        if len(times):
            self.first_ns = self.first_ns or int(times[0])
            self.last_ns = max(self.last_ns, int(times[-1]))

    def add_spans(self, spans: Columns) -> None:
        """Append spans; an evaluation that goes on where the last one stopped is the same one."""
        count = rows_of(spans)
        if count == 0:
            return
        first = 0
        last = self.spans.chunks[-1] if self.spans.chunks else None
        if (
            last is not None
            and int(spans["label"][0]) == int(last["label"][-1]) == lab.EVALUATION
            and int(spans["steps_before"][0]) == int(last["steps_before"][-1])
        ):
            last["end_ns"][-1] = spans["end_ns"][0]
            last["detail"][-1] |= spans["detail"][0]
            grew = int(last["end_ns"][-1] - last["start_ns"][-1])
            seen, total, longest = self.span_totals[lab.EVALUATION]
            before = int(last["end_ns"][-1] - spans["start_ns"][0])
            self.span_totals[lab.EVALUATION] = (seen, total + before, max(longest, grew))
            first = 1
        rest = {name: column[first:].copy() for name, column in spans.items()}
        self.spans.add(rest)
        self.spans.thin()
        for label in np.unique(rest["label"]).tolist():
            lengths = (rest["end_ns"] - rest["start_ns"])[rest["label"] == label]
            seen, total, longest = self.span_totals.get(label, (0, 0, 0))
            self.span_totals[label] = (
                seen + len(lengths),
                total + int(lengths.sum()),
                max(longest, int(lengths.max())),
            )

    def raise_peak(self, name: int, label: int, value: int) -> None:
        """Remember the highest reading of a kind in a stage."""
        held = self.peaks.setdefault(name, {})
        if value > held.get(label, 0):
            held[label] = value


def save(state: Folded, path: Path) -> None:
    """Write a folded record so that a reader finds the old one or the new one whole. Raises OSError."""
    arrays: dict[str, Any] = {}
    for table in _TABLES:
        for name, column in packed(getattr(state, table).columns()).items():
            arrays[f"{table}.{name}"] = column
    arrays["open_events"] = state.carry.open_events
    arrays["calls"] = state.calls
    if len(state.recent.time_ns):
        arrays["recent"] = np.stack((state.recent.time_ns, state.recent.label, state.recent.step))
    for kind, detail in (
        ("slowest", [kept[1] for kept in state.slowest.values()]),
        ("newest", [*state.newest.values()]),
    ):
        arrays[f"{kind}.events"] = np.concatenate([NO_EVENTS, *detail])
        arrays[f"{kind}.counts"] = np.array([len(events) for events in detail], dtype=np.int64)
    arrays["state"] = np.frombuffer(json.dumps(_plain(state)).encode(), dtype=np.uint8)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _plain(state: Folded) -> dict[str, Any]:
    """All that is not an array, as JSON."""
    known = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in asdict(state.carry.known).items()
    }
    scalars = (
        "stream",
        "totals",
        "batches_total",
        "pauses",
        "pause_ns",
        "first_ns",
        "last_ns",
        "lost_segments",
    )
    return {
        "format": FORMAT,
        **{name: getattr(state, name) for name in (*scalars, "repaired_blocks", "cut_short", "notices")},
        "cursors": {name: list(cursor) for name, cursor in state.cursors.items()},
        "carry": {
            "known": known,
            "step_open": state.carry.step_open,
            "steps": state.carry.steps,
            "happened": int(state.carry.happened),
        },
        "slowest": [[index, kept[0]] for index, kept in state.slowest.items()],
        "newest": list(state.newest),
        "peaks": [[name, [*held.items()]] for name, held in state.peaks.items()],
        "span_totals": [[label, *totals] for label, totals in state.span_totals.items()],
        "marks": [*state.marks.items()],
        "worker_pids": sorted(state.worker_pids),
        "user_parts": [*state.user_parts.items()],
    }


def load(path: Path) -> Folded:
    """The folded record in a file; an empty one, with a notice, where it can't be read."""
    if not path.exists():
        return Folded()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _restored({name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
        state = Folded()
        state.tell(f"{path.name} is damaged: the older part of the run could not be read")
        return state


def _restored(arrays: dict[str, Any]) -> Folded:
    plain = json.loads(arrays["state"].tobytes())
    if plain["format"] != FORMAT:
        raise ValueError("written in another format")
    state = Folded()
    for table in _TABLES:
        prefix = f"{table}."
        columns = {
            name[len(prefix) :]: column.astype(np.int64) for name, column in arrays.items() if name.startswith(prefix)
        }
        held: Table = getattr(state, table)
        held.add(columns)
    known: dict[str, Any] = plain["carry"].pop("known")
    for name in ("trained_loaders", "evaluation_loaders", "trained_roots"):
        known[name] = frozenset(known[name])
    state.carry = Carry(
        open_events=arrays["open_events"].astype(np.uint64).reshape(-1, 2),
        known=Known(**known),
        **plain["carry"],
    )
    state.calls = arrays["calls"].astype(np.int64)
    if "recent" in arrays:
        time, label, step = arrays["recent"].astype(np.int64)
        state.recent = Moments(time, label.astype(np.int16), step)
    slow = np.split(arrays["slowest.events"], np.cumsum(arrays["slowest.counts"])[:-1])
    state.slowest = {index: (wall, events) for (index, wall), events in zip(plain["slowest"], slow, strict=False)}
    new = np.split(arrays["newest.events"], np.cumsum(arrays["newest.counts"])[:-1])
    state.newest = dict(zip(plain["newest"], new, strict=False))
    state.cursors = {name: (seq, offset) for name, (seq, offset) in plain["cursors"].items()}
    state.peaks = {name: dict(map(tuple, held)) for name, held in plain["peaks"]}
    state.span_totals = {label: (count, total, longest) for label, count, total, longest in plain["span_totals"]}
    state.marks = dict(map(tuple, plain["marks"]))
    state.worker_pids = set(plain["worker_pids"])
    state.user_parts = dict(map(tuple, plain["user_parts"]))
    for name in (
        "stream",
        "totals",
        "batches_total",
        "pauses",
        "pause_ns",
        "first_ns",
        "last_ns",
        "lost_segments",
    ):
        setattr(state, name, plain[name])
    for name in ("repaired_blocks", "cut_short", "notices"):
        setattr(state, name, plain[name])
    return state
