"""One rank, from the facts of its training to what is kept of it for the job.

In:  the rank's own `Facts`, its folded record and its notes.
Out: `RankFacts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiler.analysis import measured as steps_of
from profiler.analysis.exchanges import PHASES
from profiler.analysis.facts import Facts, StageFacts
from profiler.analysis.folded import Folded
from profiler.analysis.measured import NS_PER_MS, Measured
from profiler.analysis.merged_lines import by_line
from profiler.analysis.rank_facts import (
    FORMAT,
    SPAN_CAUSES,
    Exchange,
    RankFacts,
    RankLine,
    RankStage,
    Reduction,
    Series,
)
from profiler.analysis.ranks import flight
from profiler.analysis.ranks.last_seen import last_seen
from profiler.record.reader import of_kind
from profiler.record.vocabulary import COLLECTIVES, STAGE_ORDER

SERIES_STEPS = 256  # steps in detail, at most
_LINES = 4  # of a stage


def rank_facts(
    facts: Facts, folded: Folded, notes: Sequence[dict[str, Any]], process_dir: Path, rank: int
) -> RankFacts:
    """What is kept of a rank."""
    joined = (of_kind(notes, "rank") or [{}])[-1]
    measured = steps_of.measured_steps(folded)
    steps, workers = facts.steps, facts.workers
    disabled = next((str(note.get("error")) for note in of_kind(notes, "disabled")), None)
    last = last_seen(process_dir, folded.stream, notes)
    return RankFacts(
        format=FORMAT,
        rank=rank,
        world_size=int(joined.get("world_size") or facts.run.ranks),
        pid=int(process_dir.name),
        host=str(joined.get("host") or ""),
        boot_id=str(joined.get("boot_id") or ""),
        backend=str(joined.get("backend") or ""),
        device=facts.machine.device,
        torch=facts.run.torch,
        ended=facts.run.ended,
        disabled=disabled,
        duration_s=facts.run.duration_s,
        steps=steps.count if steps else 0,
        measured=steps.measured if steps else 0,
        step_median_ms=steps.median_ms if steps else None,
        step_mean_ms=steps.mean_ms if steps else None,
        step_noise_ms=steps.noise_ms if steps else 0.0,
        micro_batches=steps.micro_batches if steps else 0.0,
        stages={name: _stage(stage) for name, stage in facts.stages.items()},
        calls=_by_kind(measured, "comm_n_"),
        blocked_ms={kind: ns / NS_PER_MS for kind, ns in _by_kind(measured, "comm_ns_").items()},
        phases_ms=_phases(measured),
        exchanges=_exchanges(notes, folded.carry.steps, int(joined.get("world_size") or facts.run.ranks)),
        reduction=_reduction(notes),
        gc_ms=facts.gc_ms_per_step,
        items=workers.items if workers else None,
        load_ms=workers.load_ms if workers else None,
        preprocess_ms=workers.preprocess_ms if workers else None,
        collate_ms=workers.collate_ms if workers else None,
        spans_s={span.name: span.total_s for span in facts.spans if span.name in SPAN_CAUSES},
        span_sites={span.name: span.site for span in facts.spans if span.name in SPAN_CAUSES and span.site},
        peak_rss_bytes=facts.memory.peak_rss_bytes,
        peak_device_bytes=facts.memory.peak_device_bytes,
        last=last if last is not None and (not facts.run.ended or last.raised) else None,
        lost_steps=folded.lost_segments > 0,
        series=series(measured) if measured is not None else Series(),
        asynchronous=facts.machine.asynchronous,
        device_times=facts.machine.device_times,
        flight=flight.find(tuple(map(str, joined.get("flight_recorder") or ())), rank, facts.run.started_unix_s),
        restart=int(joined.get("restart") or 0),
        without_core=facts.machine.without_core,
        throttle_reasons=int(reasons) if (reasons := facts.machine.gpu.get("throttle_reasons")) is not None else None,
    )


def _stage(stage: StageFacts) -> RankStage:
    longest = by_line(stage.lines)[:_LINES]
    lines = tuple(RankLine(line.site, line.leaf, line.ms_per_step, line.source) for line in longest)
    return RankStage(stage.mean_ms, stage.median_ms, stage.p95_ms, stage.call, lines)


def _by_kind(measured: Measured | None, prefix: str) -> dict[str, float]:
    """Means per step of the columns of each kind of collective."""
    if measured is None:
        return {}
    return {
        COLLECTIVES.get(int(name.removeprefix(prefix)), "communication"): measured.mean(column[measured.rows])
        for name, column in measured.columns.items()
        if name.startswith(prefix)
    }


def _phases(measured: Measured | None) -> dict[str, float]:
    if measured is None:
        return {}
    known = [phase for phase in PHASES if f"comm_{phase}" in measured.columns]
    return {phase: measured.mean(measured.column(f"comm_{phase}")[measured.rows]) / NS_PER_MS for phase in known}


def _times(traffic: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, bytes]]:
    """Blocked times of single calls, by the row's place: rows are only ever added. Not every note holds them."""
    found = {}
    for note in traffic:
        for number, row in enumerate(note.get("rows") or ()):
            if row.get("times_ns") and row.get("every"):
                kept = np.asarray(row["times_ns"], dtype=np.float64) / NS_PER_MS
                found[number] = int(row["every"]), kept.astype("<f4").tobytes()
    return found


def _exchanges(notes: Sequence[dict[str, Any]], steps: int, world_size: int) -> tuple[Exchange, ...]:
    groups = {note.get("id"): note for note in of_kind(notes, "group")}
    traffic = of_kind(notes, "traffic")
    said: Mapping[str, Any] = (traffic or [{}])[-1]
    times = _times(traffic)
    per = max(int(said.get("steps") or steps), 1)
    found = []
    for number, row in enumerate(said.get("rows") or ()):
        group = groups.get(row.get("group"), {})
        calls = int(row["calls"])
        if calls == 0:
            continue
        shortest = row.get("shortest_ns")
        every, kept = times.get(number, (0, b"")) if not row["asynchronous"] else (0, b"")
        members = tuple(map(int, group.get("ranks") or ()))
        found.append(
            Exchange(
                kind=str(row["kind"]),
                group=str(group.get("description") or row.get("group")),
                group_size=int(group.get("size") or 0),
                backend=str(group.get("backend") or ""),
                dtype=row.get("dtype"),
                calls=calls / per,
                bytes=row["bytes"] / calls,
                blocked_ms=row["blocked_ns"] / calls / NS_PER_MS,
                shortest_ms=shortest / NS_PER_MS if shortest is not None else None,
                asynchronous=2 * int(row["asynchronous"]) > calls,
                every=every,
                times=kept,
                members=members if len(members) < world_size else (),
                peer=row.get("peer"),
            )
        )
    return tuple(sorted(found, key=lambda each: -each.calls * (each.blocked_ms or 0.0)))


def _reduction(notes: Sequence[dict[str, Any]]) -> Reduction | None:
    """The last that DDP said of itself."""
    said = next(reversed(of_kind(notes, "ddp")), None)
    if said is None:
        return None
    samples = int(said.get("samples") or 0)

    def mean_ms(name: str) -> float | None:
        return said[name] / samples / NS_PER_MS if samples else None

    return Reduction(
        module=str(said.get("module") or ""),
        bucket_cap_bytes=said.get("bucket_cap_bytes"),
        bucket_bytes=tuple(said.get("bucket_bytes") or ()),
        parameter_bytes=int(said.get("parameter_bytes") or 0),
        parameter_tensors=int(said.get("parameter_tensors") or 0),
        unused_parameter_bytes=int(said.get("unused_parameter_bytes") or 0),
        dtypes=str(said.get("dtypes") or ""),
        find_unused_parameters=bool(said.get("find_unused_parameters")),
        gradient_as_bucket_view=bool(said.get("gradient_as_bucket_view")),
        static_graph=bool(said.get("static_graph")),
        comm_hook=said.get("comm_hook"),
        buffers_broadcast=bool(said.get("buffers_broadcast")),
        synced=int(said.get("synced_backwards") or 0),
        unsynced=int(said.get("unsynced_backwards") or 0),
        samples=samples,
        total_ms=mean_ms("comm_ns"),
        hidden_ms=mean_ms("hidden_ns"),
        compute_ms=mean_ms("compute_ns"),
    )


def series(measured: Measured) -> Series:
    """Steps whose numbers are multiples of a power of two: ranks that differ in length still share them.

    Of a run so long that its table was thinned out they are taken from its newest part, where no step is missing:
    before it each rank has kept other ones.
    """
    index, start, wall = (measured.column(name) for name in ("index", "start_ns", "wall_ns"))
    usable = measured.rows
    consecutive = np.diff(index) == 1
    breaks = np.flatnonzero(~consecutive)
    begin = int(breaks[-1]) + 1 if len(breaks) else 0
    if len(index) - begin < SERIES_STEPS:
        begin = 0
    stride = 1
    while (len(index) - begin) // stride >= SERIES_STEPS:
        stride *= 2
    chosen = begin + np.flatnonzero(index[begin:] % stride == 0)
    gap = np.zeros(len(index), dtype=np.int64)
    gap[1:] = np.where(consecutive, start[1:] - start[:-1] - wall[:-1], 0)
    # what runs in one step on one rank is waited for in the next on the others
    near = ~usable
    near[1:] |= ~usable[:-1]
    columns = {name: measured.stage_ns(name) for name in STAGE_ORDER}
    columns |= {"gap": np.maximum(gap, 0), "gc": measured.column("gc_ns")}
    for phase in PHASES:
        for prefix, name in (("comm", ""), ("from", "_from"), ("to", "_to")):
            columns[f"{prefix}_{phase}"] = measured.column(f"comm_{phase}{name}")
    return Series(
        index=index[chosen].astype("<i4").tobytes(),
        start=start[chosen].astype("<i8").tobytes(),
        left_out=near[chosen].astype(np.uint8).tobytes(),
        columns={
            name: (column[chosen] / NS_PER_MS).astype("<f4").tobytes()
            for name, column in columns.items()
            if bool(column.any())
        },
    )
