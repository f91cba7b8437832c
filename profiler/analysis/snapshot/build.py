"""From a snapshot to facts.

In:  a `record.snapshot.Snapshot`.
Out: `SnapshotFacts`: per device, what held the memory at the moment that matters (out of memory, else the peak).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from profiler.analysis.site import Site
from profiler.analysis.snapshot import origin as kinds
from profiler.analysis.snapshot.categories import Phases, categories, origin_of, phases
from profiler.analysis.snapshot.layout import at_end, at_moment
from profiler.analysis.snapshot.line import line
from profiler.analysis.snapshot.origin import Origin
from profiler.analysis.snapshot.replay import BEFORE, Lifetime, held_at, replay, reserved, totals
from profiler.analysis.snapshot_facts import DeviceMemory, Fragmentation, Holding, OutOfMemory, SnapshotFacts
from profiler.record.snapshot import ALLOCATED, AWAITING_FREE, NO_STACK, Event, Frame, Segment, Snapshot

MOST_HOLDINGS = 200
MOST_OOMS = 20
UNSURE_SHARE = 0.01  # of the events that don't fit, from which the reader is told


class Failure(NamedTuple):
    """An allocation that failed, as somebody other than the snapshot saw it."""

    device: int
    requested: int
    free: int  # bytes that the driver called free
    site: Site | None


def snapshot_facts(snapshot: Snapshot, source: str, failures: Sequence[Failure] = ()) -> SnapshotFacts:
    """Explain every device of a snapshot that holds or did anything.

    `failures` are those that made somebody take it; they stand for those that its events don't show.
    """
    origins = [kinds.origin(frames) for frames in snapshot.stacks]
    if any(each.python for each in origins):  # Python stacks were recorded: one without any is autograd's thread
        origins = [
            replace(it, kind=kinds.BACKWARD, stage="backward") if it.kind == kinds.BARE else it for it in origins
        ]
    numbers = sorted({segment.device for segment in snapshot.segments} | set(snapshot.events))
    devices = [_device(snapshot, number, origins) for number in numbers]
    devices = [_failed(device, [it for it in failures if it.device == device.device]) for device in devices]
    settings = snapshot.settings.get("PYTORCH_CUDA_ALLOC_CONF") or snapshot.settings.get("last_allocator_settings")
    return SnapshotFacts(
        source,
        snapshot.layout,
        tuple(devices),
        any(each.python for each in origins),
        settings[:400] if isinstance(settings, str) else "",
        tuple(_notices(snapshot, devices, origins)),
    )


def _device(snapshot: Snapshot, number: int, origins: Sequence[Origin]) -> DeviceMemory:
    segments = [segment for segment in snapshot.segments if segment.device == number]
    events = snapshot.events.get(number, ())
    played = replay(segments, events)
    lifetimes = _trusted(played.lifetimes, snapshot.stacks)
    found = phases(events, origins, snapshot.annotations, frees_tell=played.frees_tell)
    held_line, reserved_line = totals(lifetimes, len(events)), reserved(segments, events)
    ooms = [index for index, event in enumerate(events) if event.action == "oom"]
    moment, word = _moment(held_line, ooms)
    names = categories(lifetimes, origins, found, moment)
    start_us = next((event.time_us for event in events if event.time_us is not None), None)
    ids = {id(it): name for it, name in zip(lifetimes, names, strict=True)}
    held = held_at(lifetimes, moment)
    end = at_end(segments)
    retries, emptied = flushes(events, origins)
    return DeviceMemory(
        device=number,
        moment=word,
        moment_s=_seconds(events, moment, start_us),
        moment_stage=found.stage[moment] if events else "",
        moment_site=_site(events[moment], origins) if events else None,
        held_bytes=sum(it.size for it in held),
        categories_bytes=_summed((ids[id(it)], it.size) for it in held),
        stages_bytes=_summed((origin_of(it.stack, origins).stage, it.size) for it in held),
        holdings=_holdings(held, ids, origins, found),
        layout=at_moment(segments, events[moment + 1 :], held) if events else end,
        end=end,
        end_held_bytes=sum(it.size for it in lifetimes if it.ended is None),
        rounding_bytes=sum(b.size - b.requested for s in segments for b in s.blocks if b.state == ALLOCATED),
        awaiting_free_bytes=sum(b.size for s in segments for b in s.blocks if b.state == AWAITING_FREE),
        graph_bytes=sum(segment.size for segment in segments if segment.pool != (0, 0)),
        streams=len({segment.stream for segment in segments}),
        expandable=_expandable(snapshot, segments, events),
        events=len(events),
        span_s=_seconds(events, len(events) - 1, start_us),
        steps=found.step[-1] + 1 if "forward" in found.stage else 0,
        first_events_lost=any(it.began == BEFORE for it in lifetimes) and bool(events),
        unmatched_events=played.unmatched,
        ooms=tuple(_oom(segments, events, it, lifetimes, origins, found) for it in ooms[-MOST_OOMS:]),
        retries=retries,
        emptied=emptied,
        driver_calls=sum(event.action in ("segment_alloc", "segment_map") for event in events),
        line=line(events, lifetimes, names, held_line, reserved_line) if len(events) > 1 else None,
    )


def _failed(device: DeviceMemory, failures: Sequence[Failure]) -> DeviceMemory:
    """A device whose snapshot was taken in a failure that its events don't show: its end is that moment."""
    if not failures or device.ooms:
        return device
    last = failures[-1]
    seen = OutOfMemory(None, last.requested, last.free, device.end_held_bytes, device.end, last.site, "")
    if device.events:
        return replace(device, ooms=(seen,))
    return replace(device, ooms=(seen,), moment="out of memory", moment_site=last.site)


def _trusted(lifetimes: Sequence[Lifetime], stacks: Sequence[tuple[Frame, ...]]) -> tuple[Lifetime, ...]:
    """Without the empty stacks of blocks: there they also stand for allocations from before the recording."""
    return tuple(
        replace(it, stack=NO_STACK) if it.stack != NO_STACK and not it.stack_of_event and not stacks[it.stack] else it
        for it in lifetimes
    )


def _moment(held: Sequence[int], ooms: Sequence[int]) -> tuple[int, str]:
    """The event that is explained: the last that failed for want of memory, else the one with most held."""
    if not held:
        return BEFORE, "end"
    if ooms:
        return ooms[-1], "out of memory"
    return max(range(len(held)), key=held.__getitem__), "peak"


def _holdings(
    held: Sequence[Lifetime], names: dict[int, str], origins: Sequence[Origin], found: Phases
) -> tuple[Holding, ...]:
    groups: dict[tuple[object, ...], list[Lifetime]] = defaultdict(list)
    for it in held:
        source = origin_of(it.stack, origins)
        groups[(source.site, source.function, names[id(it)], source.stage)].append(it)
    made = []
    for its in groups.values():
        source = origin_of(its[0].stack, origins)
        sizes = [it.size for it in its]
        steps = {found.step[it.began] for it in its if it.began != BEFORE}
        category = names[id(its[0])]
        made.append(
            Holding(
                source.site,
                source.function,
                category,
                source.stage,
                sum(sizes),
                len(its),
                max(sizes),
                max(len(steps), 1),
            )
        )
    return tuple(sorted(made, key=lambda holding: -holding.bytes)[:MOST_HOLDINGS])


def _oom(
    segments: Sequence[Segment],
    events: Sequence[Event],
    index: int,
    lifetimes: Sequence[Lifetime],
    origins: Sequence[Origin],
    found: Phases,
) -> OutOfMemory:
    event = events[index]
    held = held_at(lifetimes, index)
    start_us = next((each.time_us for each in events if each.time_us is not None), None)
    layout: Fragmentation = at_moment(segments, events[index + 1 :], held)
    source = origin_of(event.stack, origins)
    return OutOfMemory(
        _seconds(events, index, start_us),
        event.size,
        event.free or 0,
        sum(it.size for it in held),
        layout,
        source.site,
        source.stage or found.stage[index],
    )


def flushes(events: Sequence[Event], origins: Sequence[Origin]) -> tuple[int, int]:
    """How often the allocator gave back what it had cached to ask again, and how often the user had it do so.

    After a refusal by the driver it frees all segments that hold nothing and asks once more, with nothing between.
    Without stacks the user's own `empty_cache()` looks the same, so that only a failure proves a retry.
    """
    retries = emptied = 0
    freed: list[Origin] = []
    for event in events:
        if event.action in ("segment_free", "segment_unmap"):
            freed.append(origin_of(event.stack, origins))
            continue
        if any("empty_cache" in each.function for each in freed):
            emptied += 1
        elif freed and (
            event.action == "oom"
            or (event.action in ("segment_alloc", "segment_map") and all(each.kind != kinds.MISSING for each in freed))
        ):
            retries += 1
        freed = []
    return retries, emptied + any("empty_cache" in each.function for each in freed)


def _expandable(snapshot: Snapshot, segments: Sequence[Segment], events: Sequence[Event]) -> bool:
    mapped = any(event.action == "segment_map" for event in events)
    return mapped or any(s.expandable for s in segments) or snapshot.settings.get("expandable_segments") is True


def _site(event: Event, origins: Sequence[Origin]) -> Site | None:
    return origin_of(event.stack, origins).site


def _seconds(events: Sequence[Event], index: int, start_us: int | None) -> float | None:
    if not 0 <= index < len(events) or start_us is None:
        return None
    time_us = events[index].time_us
    return None if time_us is None else (time_us - start_us) / 1e6


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for name, size in pairs:
        sums[name] += size
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _notices(snapshot: Snapshot, devices: Sequence[DeviceMemory], origins: Sequence[Origin]) -> Iterable[str]:
    events = sum(device.events for device in devices)
    if not devices or not any(device.held_bytes or device.layout.reserved_bytes for device in devices):
        yield "Nothing was reserved or held on any device when the snapshot was taken."
    elif not events and not any(device.ooms for device in devices):
        yield (
            "No events were recorded: this is what was held when the snapshot was taken, and not the peak. "
            "Call torch.cuda.memory._record_memory_history() before the training for the way there."
        )
    if devices and not any(origin.python for origin in origins):
        yield (
            "No stacks were recorded, so that neither categories nor lines are known: "
            'record with torch.cuda.memory._record_memory_history(stacks="python"), or set memory_history in '
            "[tool.prof] for a run under `prof attach`."
        )
    unmatched = sum(device.unmatched_events for device in devices)
    if unmatched > UNSURE_SHARE * events:
        yield (
            f"{unmatched:,} of {events:,} events don't fit what was held at the end: some kinds of events were left "
            "out (skip_actions), or the file was changed; figures over time are not to be relied on."
        )
    if snapshot.unknown:
        yield f"{snapshot.unknown:,} events of kinds that are not known here were passed over."
