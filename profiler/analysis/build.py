"""From a run folder to the facts of the run.

In:  a run folder.
Out: `Facts`. This is where the analysis touches files: what it calls are plain functions over values.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from profiler.analysis import timeline as drawing
from profiler.analysis.arithmetic import arithmetic_of
from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.device_stages import DeviceSteps, device_steps, device_timeline, on_device_clock
from profiler.analysis.excerpts import live_excerpts
from profiler.analysis.facts import Arithmetic, Facts, Overhead, RunFacts, StepFacts
from profiler.analysis.fold import collect
from profiler.analysis.folded import Folded
from profiler.analysis.kept import kept_graphs
from profiler.analysis.labels import INSTRUMENT
from profiler.analysis.lines import ReadLine, lines_by_stage, places_of, span_sites
from profiler.analysis.machine import machine_of
from profiler.analysis.measured import Measured, measured_steps
from profiler.analysis.memory import memory_facts
from profiler.analysis.notices import crowded, missing_steps, notices_of
from profiler.analysis.rank_facts import RankFacts
from profiler.analysis.ranks.job import Read, host_of, is_job, read_job, reduced
from profiler.analysis.ranks.spread import reduce_ahead
from profiler.analysis.settings import settings_of
from profiler.analysis.snapshot.kept import kept_snapshot
from profiler.analysis.spans import span_facts
from profiler.analysis.stages import call_sites, stage_facts, with_part_calls
from profiler.analysis.steps import step_facts
from profiler.analysis.window import operators_of, watched_step, window_device, window_note, window_notice
from profiler.analysis.workers import worker_facts
from profiler.errors import ProfError
from profiler.record import layout, reader
from profiler.record.reader import of_kind
from profiler.record.vocabulary import Name


@dataclass(frozen=True, slots=True)
class Training:
    """The record of one training process."""

    directory: Path
    folded: Folded
    notes: list[dict[str, Any]]
    damaged_notes: int
    process: Mapping[str, Any]  # what it said when it checked in; may be empty

    @property
    def pid(self) -> int:
        return int(self.directory.name)


def read_facts(run_dir: Path, rank: int | None = None, dumps: Path | None = None) -> Facts:
    """The facts of a run; of a job those of its typical rank, or of `rank`, with the flight recorder's `dumps`.

    Raises ProfError, in one sentence, when the folder holds nothing that can be read.
    """
    if not run_dir.is_dir():
        raise ProfError(f"{run_dir} is not a folder: give a run's name or its path; `prof list` shows the runs.")
    run_json = reader.read_json(run_dir / layout.RUN_JSON)
    processes = reader.read_processes(run_dir)
    directories = layout.process_directories(run_dir)
    if run_json is None and not processes and not directories:
        raise ProfError(f"{run_dir} holds no recorded events: it is not the folder of a run, or its record is gone.")
    job = None
    if is_job(directories):
        reduce_ahead(run_dir, directories)
        job = read_job(directories, _reader(run_dir, run_json or {}, processes), rank, dumps)
    if job is not None:
        return job
    if rank or dumps is not None:
        option = "--rank" if rank else "--flight-recorder"
        raise ProfError(f"{run_dir} is no job of several ranks: leave {option} out.")
    trainings = [_read_training(directory, processes) for directory in directories]
    return _facts(run_dir, run_json or {}, processes, trainings, linecache.getline)


def reduce_one(run_dir: Path, directory: Path, over: bool = False) -> None:
    """Reduce one rank, and keep what it comes to once it has ended, or `over` says so. Raises ProfError when it can't
    be read."""
    read_one = _reader(run_dir, reader.read_json(run_dir / layout.RUN_JSON) or {}, reader.read_processes(run_dir))
    reduced(directory, read_one, over)


def reduce_ranks(run_dir: Path, host: str | None = None, rank: int | None = None) -> dict[Path, RankFacts]:
    """Reduce the ranks of a run that is over to what merging reads; those of a host, or one, if given."""
    read_one = _reader(run_dir, reader.read_json(run_dir / layout.RUN_JSON) or {}, reader.read_processes(run_dir))
    directories = layout.process_directories(run_dir)
    if rank is not None:
        directories = [each for each in directories if each.parent == layout.rank_directory(run_dir, rank)]
    if host is not None:
        directories = [each for each in directories if host_of(each) == host]
    found = {directory: reduced(directory, read_one, over=True) for directory in directories}
    return {directory: facts for directory, facts in found.items() if facts}


def _reader(
    run_dir: Path, run_json: Mapping[str, Any], processes: Mapping[int, Mapping[str, Any]]
) -> Callable[[Path], Read]:
    """How one training process of a run is read by itself."""

    def read_one(directory: Path) -> Read:
        training = _read_training(directory, processes)
        facts = _facts(run_dir, run_json, processes, [training], linecache.getline)
        return Read(facts, training.folded, training.notes)

    return read_one


def _read_training(directory: Path, processes: Mapping[int, Mapping[str, Any]]) -> Training:
    notes, damaged = reader.read_notes(directory)
    return Training(directory, collect(directory, final=True), notes, damaged, processes.get(int(directory.name), {}))


def _chosen(trainings: Sequence[Training]) -> Training | None:
    """The process that the run is about: of the first rank the one that trained most."""
    first = [training for training in trainings if training.directory.parent == trainings[0].directory.parent]
    return max(first, key=_how_much, default=None)


def _nothing_recorded(run_dir: Path, processes: Mapping[int, Mapping[str, Any]]) -> Training:
    """What stands for a training where no process left an event: one that at least imported torch, if any did."""
    imported = (process for process in processes.values() if process.get("torch"))
    return Training(run_dir / "0", Folded(), [], 0, next(imported, {}))


def _how_much(training: Training) -> tuple[int, int, int]:
    totals = training.folded.totals
    return training.folded.carry.steps, totals.get("wall_ns", 0), training.folded.last_ns


def _facts(
    run_dir: Path,
    run_json: Mapping[str, Any],
    processes: Mapping[int, Mapping[str, Any]],
    trainings: Sequence[Training],
    read_line: ReadLine,
) -> Facts:
    training = _chosen(trainings) or _nothing_recorded(run_dir, processes)
    folded, notes = training.folded, training.notes
    measured = measured_steps(folded)
    began_ns = _began_ns(training)
    not_measured: dict[str, str] = {}
    device = next(reversed(of_kind(notes, "device")), None)
    settings = settings_of(notes, folded.carry.known.trained_loaders)
    machine, absent = machine_of(run_json, device, folded, measured, settings.values)
    not_measured |= absent
    places = places_of(of_kind(notes, "site"))
    called = of_kind(notes, "call")
    calls = span_sites(folded.samples.columns(), places) | call_sites(called, settings.roots)
    looked_at = (of_kind(notes, "memory"), of_kind(notes, "outputs"))
    memory, absent = memory_facts(folded, measured, *looked_at, (device or {}).get("capacity_bytes"), began_ns)
    memory = replace(memory, kept_graphs=kept_graphs(notes, read_line))
    not_measured |= absent
    steps = stages = workers = timeline = timed = None
    run = _run_facts(run_dir, run_json, training, trainings)
    if measured is None:
        not_measured["steps"] = missing_steps(folded, bool(trainings), len(processes))
    else:
        steps = step_facts(measured, folded.carry.known.explicit)
        timeline = drawing.timeline(measured)
        lines = lines_by_stage(folded.samples.columns(), measured, places, read_line)
        if not lines:
            not_measured["lines"] = "the sampler saw no step of the training"
        one_rank = _world_size(training, trainings) == 1
        on_cpu = device is not None and machine.device == "cpu"
        stages, absent = stage_facts(measured, folded, calls, lines, on_cpu, one_rank)
        stages = with_part_calls(stages, called)
        not_measured |= absent
        if machine.asynchronous:
            timed = device_steps(measured, folded)
            if isinstance(timed, DeviceSteps):
                machine = replace(machine, device_times=True)
                stages = on_device_clock(stages, timed, steps.mean_ms, folded.user_parts)
                timeline = device_timeline(timeline, measured, timed)
            else:
                not_measured["device times"] = timed
        found = worker_facts(
            folded,
            measured,
            steps,
            stages.get("data_wait"),
            settings.training_loader,
            training.pid,
            places,
            read_line,
            notes,
        )
        if isinstance(found, str):
            not_measured["workers"] = found
        else:
            workers = found
    windows = of_kind(notes, "operators")
    window = window_note(windows, steps.median_ms if steps else None)
    operators = operators_of(window)
    watched, seen_there = window_device(training.directory, window, steps.mean_ms if steps else None)
    if not operators:
        not_measured["operators"] = "no step was looked at operator by operator"
    for note in of_kind(notes, "unobserved"):
        not_measured[str(note.get("what"))] = str(note.get("why"))
    peak = run_json.get("peak")
    arithmetic = arithmetic_of(
        window, steps.mean_ms if steps else None, settings, peak if isinstance(peak, dict) else None
    )
    if isinstance(arithmetic, str):
        not_measured["operations"] = arithmetic
    elif isinstance(watched, DeviceFacts):
        watched = replace(
            watched,
            flops_per_step=arithmetic.flops_per_step,
            mfu=arithmetic.mfu,
            peak_tflops=arithmetic.peak_tflops,
        )
    if isinstance(watched, str):
        not_measured["device window"] = watched
    snapshot, told = kept_snapshot(training.directory, notes)
    return Facts(
        run=run,
        machine=machine,
        steps=steps,
        stages=stages or {},
        workers=workers,
        memory=memory,
        spans=span_facts(
            folded, began_ns, measured.first_ns if measured else None, _run_s(run, folded, began_ns), calls
        ),
        gc_ms_per_step=_gc_ms(measured),
        gc_steps=int((measured.column("gc_ns")[measured.rows] > 0).sum()) if measured else 0,
        gc_pauses=folded.pauses,
        settings=settings,
        overhead=_overhead(folded, measured, notes),
        timeline=timeline,
        histogram=drawing.histogram(measured) if measured else None,
        operators=operators,
        not_measured=not_measured,
        notices=(
            *told,
            *notices_of(training, trainings),
            *(crowded(machine) if measured is not None else ()),
            *_clock_notice(steps, timed),
            *window_notice(windows, window),
        ),
        snapshot=snapshot,
        root=str(run_json.get("cwd") or ""),
        device=watched if isinstance(watched, DeviceFacts) else None,
        threads=tuple(dict(row) for row in (window or {}).get("threads") or () if isinstance(row, dict)),
        critical_path=seen_there.critical_path if seen_there else None,
        roofline=seen_there.roofline if seen_there else None,
        excerpts=(*live_excerpts(folded, measured, notes, training.pid, began_ns), *watched_step(seen_there)),
        arithmetic=arithmetic if isinstance(arithmetic, Arithmetic) else None,
    )


def _clock_notice(steps: StepFacts | None, timed: DeviceSteps | str | None) -> tuple[str, ...]:
    """From how many steps the stage times come, where they come from a sample of them."""
    if steps is None or not isinstance(timed, DeviceSteps):
        return ()
    return (f"stage times are the device's own, read in {timed.count:,} of {steps.measured:,} measured steps",)


def _began_ns(training: Training) -> int:
    """When the process began, on the clock of its events; its first event where it did not say."""
    given = training.process.get("started_perf_ns")
    first = training.folded.first_ns
    return given if isinstance(given, int) and (given <= first or not first) else first


def _world_size(training: Training, trainings: Sequence[Training]) -> int:
    """Ranks of the training; a process that joined no group is alone."""
    noted = [note.get("value") for note in of_kind(training.notes, "setting") if note.get("name") == "world_size"]
    found = len({other.directory.parent for other in trainings}) or 1
    for given in (*noted, training.process.get("world_size")):
        if isinstance(given, (int, str)) and str(given).isdigit():
            found = max(found, int(given))
    return found


def _run_facts(
    run_dir: Path, run_json: Mapping[str, Any], training: Training, trainings: Sequence[Training]
) -> RunFacts:
    folded = training.folded
    same_rank = [other for other in trainings if other.directory.parent == training.directory.parent]
    others = [other for other in same_rank if other is not training and other.folded.carry.steps]
    command = run_json.get("command")
    exit_code, duration = run_json.get("exit_code"), run_json.get("duration_s")
    recorded_s = (folded.last_ns - _began_ns(training)) / 1e9 if folded.last_ns else 0.0
    return RunFacts(
        name=str(run_json.get("name") or run_dir.name),
        command=tuple(map(str, command if isinstance(command, list) else training.process.get("argv") or ())),
        script=str(run_json["script"]) if run_json.get("script") else None,
        torch=_text(training.process.get("torch")) or _text(run_json.get("torch")),
        python=_text(training.process.get("python")) or _text(run_json.get("python")),
        ranks=_world_size(training, trainings),
        duration_s=float(duration) if isinstance(duration, (int, float)) else recorded_s,
        exit_code=exit_code if isinstance(exit_code, int) else None,
        signal=_text(run_json.get("signal")),
        ended=int(Name.ENDED) in folded.marks,
        started_unix_s=float(run_json.get("started_unix_s") or training.process.get("started_unix_s") or 0.0),
        other_trainings=len(others),
    )


def _text(value: object) -> str | None:
    return str(value) if value else None


def _run_s(run: RunFacts, folded: Folded, began_ns: int) -> float:
    """Length of the training process, of which spans take their share."""
    recorded_s = (folded.last_ns - began_ns) / 1e9 if folded.last_ns else 0.0
    return recorded_s or run.duration_s


def _gc_ms(measured: Measured | None) -> float | None:
    return measured.mean(measured.column("gc_ns")[measured.rows]) / 1e6 if measured else None


def _overhead(folded: Folded, measured: Measured | None, notes: Sequence[dict[str, Any]]) -> Overhead:
    """Our cost: events times their calibrated price, unless a better figure was noted; and events on the device."""
    cost = (of_kind(notes, "cost") or [{}])[-1]
    share = (of_kind(notes, "sampler") or [{}])[-1].get("share")
    events = measured.mean(measured.column("events")[measured.rows]) if measured else 0.0
    price, noted = cost.get("ns_per_event"), cost.get("us_per_step")
    us = float(noted) if isinstance(noted, (int, float)) else None
    if us is None and measured is not None and isinstance(price, (int, float)):
        us = events * float(price) / 1e3
    device_us = (of_kind(notes, "device_clock") or [{}])[-1].get("us_per_step")
    if us is not None and isinstance(device_us, (int, float)):
        us += float(device_us)
    return Overhead(
        us_per_step=us,
        share=us / 1e3 / measured.mean(measured.wall_ms()) if us is not None and measured is not None else None,
        events_per_step=events,
        sampler_share=float(share) if isinstance(share, (int, float)) else None,
        instrument_s=_instrument_s(folded),
    )


def _instrument_s(folded: Folded) -> float:
    return folded.span_totals.get(INSTRUMENT, (0, 0, 0))[1] / 1e9
