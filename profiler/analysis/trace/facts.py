"""From a recording to the facts of its training.

In:  a `Recording`.
Out: `Facts`. Host stages go the way of a live run: events in the record's words, cut, folded and measured by the same
functions. The device's side comes from its own events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.analysis import labels as lab
from profiler.analysis import noise
from profiler.analysis import timeline as drawing
from profiler.analysis.block import Moments, Said
from profiler.analysis.device.device import Seen, device_facts
from profiler.analysis.device.launches import launches_of
from profiler.analysis.device_facts import DeviceFacts, DeviceStep
from profiler.analysis.facts import Facts, Machine, MemoryFacts, Overhead, RunFacts, StageFacts, StepFacts, TraceFacts
from profiler.analysis.fold import fold_thread
from profiler.analysis.folded import Folded
from profiler.analysis.intervals import EMPTY, Intervals, Ints, union
from profiler.analysis.measured import Measured, measured_steps
from profiler.analysis.places import Places, places_of
from profiler.analysis.stages import stage_facts
from profiler.analysis.steps import step_facts
from profiler.analysis.trace.critical import critical_path
from profiler.analysis.trace.excerpts import step_excerpts
from profiler.analysis.trace.exchanges import Exchanges, exchanges_of
from profiler.analysis.trace.host import Host, read_host
from profiler.analysis.trace.lines import stage_lines
from profiler.analysis.trace.operators import operator_rows
from profiler.analysis.trace.process import Process, graph_threads, training_process
from profiler.analysis.trace.roofline import roofline
from profiler.analysis.trace.settings import settings_of_trace
from profiler.analysis.trace.used import used_device
from profiler.record.trace.recording import Recording
from profiler.record.trace.source import ReadSource, no_source
from profiler.record.vocabulary import STAGE_ORDER

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Traced:
    """The facts of one file, and what they are of."""

    facts: Facts
    rank: int | None
    label: str
    exchanges: Exchanges


def facts_of(
    recording: Recording, command: tuple[str, ...] = (), source: str = "trace", read: ReadSource = no_source
) -> Traced:
    """Facts of the process of the recording that trains.

    `source` as in `DeviceFacts`; `read` reads the user's files.
    """
    process = training_process(recording)
    own = process.recording
    launches = launches_of(own.device, own.calls, own.operators)
    host = read_host(process, launches)
    places = places_of(own, read, process.thread, tuple(graph_threads(process)))
    folded, moments = fold_thread(host.events, Said())
    measured = measured_steps(folded, noise.start_up)
    if measured is not None and not bool(measured.wall_ms().any()):
        measured = None  # what looks like steps takes no time
    warmup = measured.warmup if measured is not None else 0
    windows = _windows(host, measured)
    seen = Seen(
        stage=_stage_at(host, moments, launches.start, warmup),
        call_stage=_stage_at(host, moments, own.calls.start, warmup),
        data_wait=host.data_wait,
        communication=host.communication,
        steps=windows,
        first_measured=warmup,
        places=places,
    )
    device = device_facts(own, launches, seen, source)
    facts = _facts(process, host, folded, measured, moments, places, device, command)
    device_name, capacity = device.name if device is not None else None, facts.memory.device_capacity_bytes
    facts = replace(
        facts,
        excerpts=step_excerpts(process, host, moments, measured, windows),
        critical_path=critical_path(process, host, moments, measured, windows, launches, places),
        roofline=roofline(process, launches, _measured_windows(windows, measured), device_name, capacity),
    )
    exchanges = Exchanges() if own.thinned else exchanges_of(own, launches, host)
    return Traced(facts, recording.distributed.rank, recording.label, exchanges)


def _windows(host: Host, measured: Measured | None) -> Intervals:
    """When each step began and ended, on the recording's clock."""
    if measured is None:
        return EMPTY
    if host.marked is not None and len(host.marked) == measured.count:
        return host.marked
    start = measured.columns["start_ns"]
    return Intervals(start, start + measured.columns["wall_ns"])


def _measured_windows(windows: Intervals, measured: Measured | None) -> Intervals:
    """The measured steps alone."""
    if measured is None or len(windows) != len(measured.rows):
        return windows
    return Intervals(windows.start[measured.rows], windows.end[measured.rows])


def _stage_at(host: Host, moments: Moments, at: Ints, warmup: int) -> npt.NDArray[np.object_]:
    """The stage that the training thread was in at these moments; "" outside of steps, in start-up and where it is
    not known."""
    label, step = moments.at(host.clock.to(at))
    inside = (at >= 0) & (label < lab.LABELS) & (step >= warmup)
    words = np.array([*STAGE_ORDER, ""], dtype=object)
    number = np.where(inside, lab.STAGE_OF[np.minimum(label, lab.LABELS - 1)], len(STAGE_ORDER))
    return words[number]


def _facts(
    process: Process,
    host: Host,
    folded: Folded,
    measured: Measured | None,
    moments: Moments,
    places: Places,
    device: DeviceFacts | None,
    command: tuple[str, ...],
) -> Facts:
    recording = process.recording
    not_measured = dict(_NOT_IN_TRACES)
    if places:
        del not_measured["lines"]
    unrecorded = device is None and used_device(recording)
    steps: StepFacts | None = None
    stages: dict[str, StageFacts] = {}
    operators: tuple[dict[str, Any], ...] = ()
    if measured is None:
        not_measured["steps"] = _no_steps(process, host)
    else:
        steps = step_facts(measured, host.marked is not None)
        one_rank = recording.distributed.world_size == 1
        lines = stage_lines(places, process.thread, host, moments, measured)
        stages, absent = stage_facts(
            measured, folded, {}, lines, device is None and _on_cpu(recording, unrecorded), one_rank
        )
        not_measured |= absent
        operators = operator_rows(process, host, moments, places, measured.count)
    if device is not None and device.collectives and "communication" not in stages:
        not_measured["communication"] = "the host does not wait in it: the device's collectives tell what it costs"
    if device is None:
        not_measured["device"] = _UNRECORDED if unrecorded else "the trace holds no event of a device"
    elif recording.thinned:
        not_measured["idle time"] = recording.lost or _TAKEN_OUT
    name = (device.name if device is not None else _only_name(recording)) or _maker(recording)
    return Facts(
        run=_run(recording, command),
        machine=Machine(
            cores=0,
            memory_bytes=0,
            device=name if device is not None or unrecorded else "cpu",
            asynchronous=device is not None or unrecorded,
            device_times=False,
            idle_cores=None,
            iowait_cores=None,
            process_cores=None,
        ),
        steps=steps,
        stages=stages,
        workers=None,
        memory=_memory(recording, device),
        spans=(),
        gc_ms_per_step=None,
        gc_pauses=0,
        settings=settings_of_trace(recording, host),
        overhead=Overhead(None, None, 0.0, None, 0.0),
        timeline=drawing.timeline(measured) if measured else None,
        histogram=drawing.histogram(measured) if measured else None,
        operators=operators,
        not_measured=not_measured,
        notices=_notices(process, host, places, device, steps),
        device=device,
        trace=_trace(process, host, unrecorded),
    )


def _trace(process: Process, host: Host, unrecorded: bool) -> TraceFacts:
    recording, thread = process.recording, process.thread
    given = recording.numbering
    loaded_by = operators = None
    if len(host.data_wait):
        if all(host.iterators):
            loaded_by = "training thread" if all("Single" in name for name in host.iterators) else "workers"
        own = (recording.operators.track == thread) & ~recording.operators.marked
        ran = union(recording.operators.start[own], recording.operators.end[own])
        operators = ran.intersect(host.data_wait).total / max(host.data_wait.total, 1)
    return TraceFacts(
        files=(recording.file,),
        thinned=recording.thinned,
        kept_share=given.seen / (given.highest - given.lowest + 1) if given else None,
        loaded_by=loaded_by,
        loading_operators=operators,
        unrecorded_device=unrecorded,
        lost=recording.lost,
    )


_TAKEN_OUT = "most host events were taken out of the trace after it was recorded"
_BEGINS = (
    "the trace names your functions, not the lines that ran: shown is the one line of a function's source that calls "
    "what ran, else where the function begins, or stood when the recording began"
)
_UNRECORDED = "the trace shows that an accelerator was in use, but holds no event of it"
_NOT_IN_TRACES = {
    "workers": "a trace does not show the DataLoader's workers",
    "lines": "the trace was recorded without stacks (`with_stack=True`)",
    "memory": "the memory of the process is not in a trace",
    "idle cores": "the machine's cores are not in a trace",
    "overhead": "what recording the trace cost is not in it",
}


_MAKERS = {"cuda": "NVIDIA GPU", "cu": "NVIDIA GPU", "hip": "AMD GPU", "ze": "Intel GPU", "ur": "Intel GPU"}


def _maker(recording: Recording) -> str:
    """Whose device it is, by the runtime's calls, where the trace does not name it."""
    numbers, counts = np.unique(recording.calls.name, return_counts=True)
    for number in numbers[np.argsort(-counts, kind="stable")].tolist():
        for prefix, maker in _MAKERS.items():
            if recording.names[number].startswith(prefix):
                return maker
    return "accelerator"


def _only_name(recording: Recording) -> str | None:
    """The device's name, where all of the machine are alike."""
    names = set(recording.devices.values())
    return names.pop() if len(names) == 1 else None


def _on_cpu(recording: Recording, unrecorded: bool) -> bool:
    """Whether the training ran on the CPU, as far as a trace without device events can tell."""
    return not unrecorded and len(recording.calls) == 0 and not recording.thinned


def _no_steps(process: Process, host: Host) -> str:
    if process.recording.thinned:
        return process.recording.lost or _TAKEN_OUT
    if len(host.backward) == 0:
        return "the trace holds no marked step, no update and no backward pass"
    return "the trace holds no marked step, and what it holds makes no whole step"


def _run(recording: Recording, command: tuple[str, ...]) -> RunFacts:
    return RunFacts(
        name=recording.label,
        command=command,
        script=None,
        torch=None,
        python=None,
        ranks=recording.distributed.world_size or 1,
        duration_s=recording.length_ns / 1e9,
        exit_code=None,
        signal=None,
        ended=True,
        started_unix_s=_unix_s(recording),
    )


def _unix_s(recording: Recording) -> float:
    """When it was recorded; 0 where its clock is no Unix time."""
    began = (recording.origin_ns + recording.base_ns) / 1e9
    return began if _YEAR_2015 < began < _YEAR_2100 else 0.0


_YEAR_2015, _YEAR_2100 = 1_420_070_400, 4_102_444_800


def _memory(recording: Recording, device: DeviceFacts | None) -> MemoryFacts:
    readings = recording.memory
    main = np.unique(readings.device) if len(readings.device) else np.empty(0, np.int64)
    allocated, reserved = readings.allocated, readings.reserved
    number = int(main[0]) if len(main) == 1 else None
    return MemoryFacts(
        peak_rss_bytes=None,
        peak_device_bytes=int(allocated.max()) if len(allocated) and int(allocated.max()) > 0 else None,
        reserved_device_bytes=int(reserved.max()) if len(reserved) and int(reserved.max()) > 0 else None,
        device_capacity_bytes=_capacity(recording, number) if device is not None else None,
        workers_peak_rss_bytes=None,
        stage_peak_bytes={},
        categories_bytes={},
        activations_by_module=(),
        growth_bytes_per_step=None,
        growth_bytes=None,
        timeline=(),
    )


def _capacity(recording: Recording, number: int | None) -> int | None:
    """Memory of the device that was used; devices of one machine are mostly alike."""
    if number in recording.capacities:
        return recording.capacities[number]
    sizes = set(recording.capacities.values())
    return sizes.pop() if len(sizes) == 1 else None


def _notices(
    process: Process, host: Host, places: Places, device: DeviceFacts | None, steps: StepFacts | None
) -> tuple[str, ...]:
    recording = process.recording
    found = [*recording.notices]
    if recording.sampled and recording.numbering is not None:
        given = recording.numbering
        share = given.seen / (given.highest - given.lowest + 1)
        found.append(
            f"the trace was thinned out after it was recorded: it holds {100 * share:.1f} % of the host events that it "
            "numbers; idle time and what overlaps what can't be told from it"
        )
    if process.others:
        many = "process" if process.others == 1 else "processes"
        found.append(f"the trace holds {process.others} further {many}; these are the facts of process {process.pid}")
    if len(recording.python):
        found.append(
            "the trace was recorded with stacks, which slows Python more than operators: what Python takes, and what "
            "is gained there, is less in the training"
        )
    if host.marked is not None and 0 < host.updated <= len(host.marked) / 2:
        found.append(
            f"an optimizer updated in {host.updated} of the {len(host.marked)} marked steps: each mark is called a "
            "step here, be it of a part of a batch"
        )
    if host.evaluations:
        many = "step also holds" if host.evaluations == 1 else "steps also hold"
        found.append(f"{host.evaluations} marked {many} an evaluation: its time is left out of the steps")
    if any(not place.exact for place in places.known):
        found.append(_BEGINS)
    devices = len(np.unique(recording.device.device)) if device is not None else 0
    if devices > 1:
        found.append(f"{devices} devices worked for this process; their times are united: busy means any of them")
    if device is not None and device.pace_ms is not None and steps is not None and device.pace_ms > steps.mean_ms:
        pace_ms = device.usual_sums.wall_ms / len(device.usual_steps) if device.usual_steps else device.pace_ms
        found.append(
            f"the host left the recorded steps, of {steps.mean_ms:.3g} ms each, well before the device was done with "
            f"them: it takes {pace_ms:.3g} ms for one, which is what verdict and findings count by"
        )
    if device is not None:
        found += [_odd(device, step) for step in device.odd_steps]
    return tuple(found)


def _odd(device: DeviceFacts, odd: DeviceStep) -> str:
    usual = device.usual_steps
    others = sum(step.lost_ms for step in usual) / len(usual)
    return (
        f"step {odd.index} is like no other and is left out of the verdict: for {odd.lost_ms:,.0f} ms of its "
        f"{odd.wall_ms:,.0f} ms the device computed nothing, for {others:,.1f} ms in each of the others"
    )
