"""How reserved memory lay: how much of it was free, and in how large pieces.

In:  segments at the end with the events after a moment, or the blocks of the end themselves.
Out: `Fragmentation`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from profiler.analysis.snapshot.replay import Lifetime
from profiler.analysis.snapshot_facts import Fragmentation
from profiler.record.snapshot import INACTIVE, Event, Segment

ROUNDING = 512  # CUDACachingAllocator's kMinBlockSize: each block is a multiple of it

Interval = tuple[int, int]  # [start, end)


def at_end(segments: Sequence[Segment]) -> Fragmentation:
    """As the snapshot found it, exactly."""
    free = largest = split = held = 0
    for segment in segments:
        gaps = [block.size for block in segment.blocks if block.state == INACTIVE]
        active = sum(block.size for block in segment.blocks if block.state != INACTIVE)
        free += sum(gaps)
        held += active
        largest = max(largest, *gaps, 0)
        split += sum(gaps) if active else 0
    return Fragmentation(sum(segment.size for segment in segments), held, free, largest, split, len(segments))


def at_moment(segments: Sequence[Segment], later: Sequence[Event], held: Sequence[Lifetime]) -> Fragmentation:
    """As it was before the later events, with what was held then; blocks are rounded as the allocator does."""
    expandable = any(segment.expandable for segment in segments)
    mapped = mapped_before(segments, later)
    if expandable:
        mapped = _joined(mapped)
    starts = [start for start, _ in mapped]
    used: list[list[Interval]] = [[] for _ in mapped]
    for it in sorted(held, key=lambda lifetime: lifetime.address):
        index = bisect_right(starts, it.address) - 1
        if index >= 0 and it.address < mapped[index][1]:
            used[index].append((it.address, min(it.address + rounded(it.size), mapped[index][1])))
    free = largest = split = 0
    for (start, end), blocks in zip(mapped, used, strict=True):
        gaps = list(_gaps(start, end, blocks))
        free += sum(gaps)
        largest = max(largest, *gaps, 0)
        split += sum(gaps) if blocks else 0
    reserved = sum(end - start for start, end in mapped)
    return Fragmentation(reserved, reserved - free, free, largest, split, len(mapped))


def mapped_before(segments: Sequence[Segment], later: Sequence[Event]) -> list[Interval]:
    """What was reserved before the later events: what is now, without what came and with what went.

    Segments that touch stay apart: a block never lies across two of them.
    """
    change: dict[int, int] = {}
    barriers = set()
    for segment in segments:
        _cover(change, segment.address, segment.size, 1)
        barriers.add(segment.address)
    for event in later:
        if event.action in ("segment_alloc", "segment_map"):
            _cover(change, event.address, event.size, -1)
        elif event.action in ("segment_free", "segment_unmap"):
            _cover(change, event.address, event.size, 1)
            barriers.add(event.address)
    intervals: list[Interval] = []
    cover, begun = 0, 0
    for address in sorted(change):
        was, cover = cover, cover + change[address]
        if was > 0 and (cover <= 0 or address in barriers):
            intervals.append((begun, address))
        if cover > 0 and (was <= 0 or address in barriers):
            begun = address
    return intervals


def rounded(size: int) -> int:
    """The block's size for so many bytes asked for."""
    return max(ROUNDING, -(-size // ROUNDING) * ROUNDING)


def _cover(change: dict[int, int], address: int, size: int, by: int) -> None:
    change[address] = change.get(address, 0) + by
    change[address + size] = change.get(address + size, 0) - by


def _joined(intervals: Iterable[Interval]) -> list[Interval]:
    joined: list[Interval] = []
    for start, end in intervals:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _gaps(start: int, end: int, blocks: Sequence[Interval]) -> Iterable[int]:
    at = start
    for begin, finish in blocks:
        if begin > at:
            yield begin - at
        at = max(at, finish)
    if end > at:
        yield end - at
