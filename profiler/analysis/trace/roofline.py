"""The work of the operators of a trace that recorded shapes.

In:  the process that trains, its launches and its steps.
Out: `Roofline`; None where no shapes were recorded.

A kernel is the work of the innermost operator around its launch whose work can be told. Without a device it is the
operator's own time on its thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from profiler.analysis.device.enclosing import busiest, owners
from profiler.analysis.device.kernels import tensor_cores_of
from profiler.analysis.device.launches import Launches
from profiler.analysis.device.peaks import peaks_of
from profiler.analysis.device.work import work_of
from profiler.analysis.intervals import Bools, Intervals, Ints
from profiler.analysis.roofline_facts import OperatorWork, Peaks, Roofline
from profiler.analysis.trace.process import Process
from profiler.record.trace.recording import Recording, Work
from profiler.record.trace.shapes import ATTENTION

NS_PER_MS = 1e6
MOST_ROWS = 20
_MOST_LOOKED_AT = 4096
_LEAST_TOLD = 0.01  # of the time, below which the rows stand for nothing
_MOST_SHAPES = 6
_OF_AMD = re.compile(r"Cijk|xdl|mfma", re.IGNORECASE)


def roofline(
    process: Process, launches: Launches, steps: Intervals, name: str | None, memory_bytes: int | None
) -> Roofline | None:
    """The operators with most time within the steps (all of them, where none was cut)."""
    recording = process.recording
    if not recording.given or not bool((recording.operators.given >= 0).any()):
        return None
    on_device = bool((recording.device.work == Work.KERNEL).any())
    operator, time, whole, tensor = (_of_kernels if on_device else _of_threads)(recording, launches, steps)
    if whole <= 0:
        return None
    found = operator >= 0
    operators = recording.operators
    at = operator[found]
    kinds, row = np.unique(
        operators.name[at].astype(np.int64) * len(recording.given) + operators.given[at], return_inverse=True
    )
    sums = np.bincount(row, weights=time[found], minlength=len(kinds))
    fast = np.bincount(row, weights=time[found] * tensor[found], minlength=len(kinds))
    called = np.zeros(len(operators), dtype=bool)
    called[at] = True
    of_call = np.zeros(len(operators), dtype=np.int64)
    of_call[at] = row  # an operator is of one kind, whatever it launched
    counts = np.bincount(of_call[called], minlength=len(kinds))
    peaks = peaks_of(name, memory_bytes) if on_device else None
    rows = []
    for number in np.argsort(-sums, kind="stable")[:_MOST_LOOKED_AT].tolist():
        kind = divmod(int(kinds[number]), len(recording.given))
        made = _row(recording, *kind, bool(2 * fast[number] > sums[number]))
        if made.flops is not None or made.bytes is not None:
            rows.append(replace(made, count=int(counts[number]), ms=float(sums[number]) / NS_PER_MS))
    told = sum(row.ms for row in rows) * NS_PER_MS / whole
    if told < _LEAST_TOLD:
        return None
    return Roofline(tuple(with_peaks(row, peaks) for row in rows[:MOST_ROWS]), told, on_device, peaks)


def with_peaks(row: OperatorWork, peaks: Peaks | None) -> OperatorWork:
    """Beside what the device can do at most."""
    if peaks is None:
        return row
    return replace(
        row, peak_flops_per_s=peaks.flops_per_s.get(row.number_format or ""), peak_bytes_per_s=peaks.bytes_per_s
    )


def _row(recording: Recording, name: int, given: int, tensor_cores: bool) -> OperatorWork:
    word, told = recording.names[name], recording.given[given]
    work = work_of(word, told)
    shapes = tuple(tuple(shape) for shape in told.shapes if isinstance(shape, list) and shape)
    return OperatorWork(
        operator=word,
        shapes=tuple(shape for shape in shapes if all(isinstance(size, int) for size in shape))[:_MOST_SHAPES],
        number_format=_on_tensor_cores(word) if work.number_format == "fp32" and tensor_cores else work.number_format,
        count=0,
        ms=0.0,
        flops=work.flops,
        bytes=work.bytes,
    )


def _on_tensor_cores(operator: str) -> str:
    """The format of a product of float32; attention may make it of several in TF32, which has no peak of its own."""
    return "fp32 on tensor cores" if operator.startswith(ATTENTION) else "tf32"


def _within(at: Ints, steps: Intervals) -> Bools:
    return np.ones(len(at), dtype=bool) if len(steps) == 0 else steps.holds(at)


def _told(recording: Recording) -> Iterator[tuple[int, Ints]]:
    """Per thread, the operators whose work can be told."""
    operators = recording.operators
    having = np.flatnonzero(operators.given >= 0)
    for track in busiest(operators.track[having]):
        yield track, having[operators.track[having] == track]


def _of_kernels(recording: Recording, launches: Launches, steps: Intervals) -> tuple[Ints, Ints, float, Bools]:
    """Per kernel its operator, its time, and whether tensor cores ran it; and the time of all kernels."""
    device, operators = recording.device, recording.operators
    at = np.flatnonzero((device.work == Work.KERNEL) & launches.known & _within(launches.start, steps))
    time = (device.end - device.start)[at]
    operator = np.full(len(at), -1, dtype=np.int64)
    for track, own in _told(recording):
        asked = np.flatnonzero(launches.track[at] == track)
        within = owners(operators.start[own], operators.end[own]).at(launches.start[at][asked])
        operator[asked] = np.where(within >= 0, own[np.maximum(within, 0)], -1)
    numbers = np.unique(device.name[at])
    fast = numbers[[_in_tf32(recording.names[number]) for number in numbers.tolist()]]
    return operator, time, float(time.sum()), np.isin(device.name[at], fast)


def _in_tf32(kernel: str) -> bool:
    """Whether a kernel runs on tensor cores, which make products of float32 with fewer digits; AMD's keep them."""
    return tensor_cores_of(kernel) is True and not _OF_AMD.search(kernel)


def _of_threads(recording: Recording, launches: Launches, steps: Intervals) -> tuple[Ints, Ints, float, Bools]:
    """Per stretch of a thread its operator and its length; and the time of all operators."""
    operators = recording.operators
    numbers, lengths, whole = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0.0
    for track, own in _told(recording):
        within = owners(operators.start[own], operators.end[own])
        if len(within.edge) == 0:
            continue
        owner, length = within.owner[:-1], np.diff(within.edge)
        chosen = (owner >= 0) & _within(within.edge[:-1], steps)
        numbers.append(own[owner[chosen]])
        lengths.append(length[chosen])
        every = np.flatnonzero((operators.track == track) & ~operators.marked & _within(operators.start, steps))
        all_of_them = owners(operators.start[every], operators.end[every])
        whole += float(np.diff(all_of_them.edge)[all_of_them.owner[:-1] >= 0].sum()) if len(every) else 0.0
    operator = np.concatenate(numbers)
    return operator, np.concatenate(lengths), whole, np.zeros(len(operator), dtype=bool)
