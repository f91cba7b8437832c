"""Play a device's events back and forth.

In:  the blocks as the snapshot found them, and the events before.
Out: `Lifetime`s: each allocation with the events at which it began and ended. Those that were there before the
     first event are found by going backwards from the end, which is known, to the beginning, which is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from profiler.record.snapshot import INACTIVE, NO_STACK, Event, Segment

BEFORE = -1  # began before the first event


@dataclass(frozen=True, slots=True)
class Lifetime:
    """One allocation."""

    address: int
    size: int  # as asked for
    stack: int
    began: int  # index of the event, or BEFORE
    ended: int | None  # None: held to the end
    category: str = ""  # where the writer says so
    compiling: bool = False
    stack_of_event: bool = False  # an empty stack is one without Python, not one that was not recorded


@dataclass(frozen=True, slots=True)
class Replay:
    """All allocations of one device."""

    lifetimes: tuple[Lifetime, ...]
    unmatched: int  # events that don't fit what was there
    frees_tell: bool  # stacks of frees were recorded; else torch writes that of the allocation there


def replay(segments: Sequence[Segment], events: Sequence[Event]) -> Replay:
    """The lifetimes of everything that one device held during or after its events."""
    freed_by = "free_completed"
    if not any(event.action == freed_by for event in events):
        freed_by = "free_requested"  # the others were left out of the recording (skip_actions)
    blocks = {
        block.address: Lifetime(block.address, block.requested, block.stack, BEFORE, None, block.category)
        for segment in segments
        for block in segment.blocks
        if block.state != INACTIVE
    }
    open_ends: dict[int, Lifetime] = dict(blocks)
    done: list[Lifetime] = []
    unmatched = 0
    for index in range(len(events) - 1, -1, -1):
        event = events[index]
        if event.action == freed_by:
            if event.address in open_ends:
                unmatched += 1
                continue
            open_ends[event.address] = Lifetime(event.address, event.size, NO_STACK, BEFORE, index)
        elif event.action == "alloc":
            held = open_ends.pop(event.address, None)
            if held is None:
                unmatched += 1
                continue
            done.append(_begun(held, event, index))
    done.extend(open_ends.values())
    done.reverse()
    done.sort(key=lambda lifetime: lifetime.began)
    return Replay(tuple(done), unmatched, any(_tells(it, events) for it in done))


def _tells(it: Lifetime, events: Sequence[Event]) -> bool:
    if it.began == BEFORE or it.ended is None:
        return False
    return events[it.ended].stack not in (NO_STACK, events[it.began].stack)


def _begun(held: Lifetime, event: Event, index: int) -> Lifetime:
    recorded = event.stack != NO_STACK
    return replace(
        held,
        size=event.size or held.size,
        stack=event.stack if recorded else held.stack,
        began=index,
        category=event.category or held.category,
        compiling=event.compiling,
        stack_of_event=recorded,
    )


def held_at(lifetimes: Sequence[Lifetime], moment: int) -> list[Lifetime]:
    """What was held just after the event of that index."""
    return [it for it in lifetimes if it.began <= moment and (it.ended is None or it.ended > moment)]


def totals(lifetimes: Sequence[Lifetime], events: int) -> list[int]:
    """Bytes held after each event."""
    change = [0] * (events + 1)
    for it in lifetimes:
        change[max(it.began, 0)] += it.size
        if it.ended is not None:
            change[it.ended] -= it.size
    held, line = 0, []
    for index in range(events):
        held += change[index]
        line.append(held)
    return line


def reserved(segments: Sequence[Segment], events: Sequence[Event]) -> list[int]:
    """Bytes reserved from the driver after each event, going backwards from the end."""
    now = sum(segment.size for segment in segments)
    line = [0] * len(events)
    for index in range(len(events) - 1, -1, -1):
        line[index] = max(now, 0)
        event = events[index]
        if event.action in ("segment_alloc", "segment_map"):
            now -= event.size
        elif event.action in ("segment_free", "segment_unmap"):
            now += event.size
    return line
