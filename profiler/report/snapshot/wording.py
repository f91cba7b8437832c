"""What a snapshot's figures read like.

In:  `DeviceMemory`.
Out: sentences and cells, the same in the terminal and in HTML.
"""

from __future__ import annotations

from profiler.analysis.snapshot_facts import DeviceMemory, Fragmentation, Holding
from profiler.report import wording
from profiler.report.snapshot.pipeline import Explained
from profiler.report.wording import byte_size, share
from profiler.rules.memory.snapshots import WORDS


def category(name: str) -> str:
    """A category as people write it."""
    return WORDS.get(name, name)


def stage(name: str) -> str:
    """A stage, or that it is not known."""
    return wording.label(name) if name else "not known"


def headline(explained: Explained) -> str:
    """One sentence on the device that matters most: one that ran out of memory, else the fullest."""
    device = first_device(explained)
    if device is None:
        return "This snapshot holds no device's memory."
    where = f" in {wording.label(device.moment_stage)}" if device.moment_stage else ""
    most = list(device.categories_bytes.items())[:2]
    parts = " and ".join(f"{category(name)} {share(held / (device.held_bytes or 1))}" for name, held in most)
    of_it = f": {parts}" if most else ""
    if device.moment == "out of memory":
        return f"Device {device.device} ran out of memory{where} while it held {byte_size(device.held_bytes)}{of_it}."
    if device.moment == "peak":
        return f"Device {device.device} held {byte_size(device.held_bytes)} at its peak{where}{of_it}."
    return f"Device {device.device} held {byte_size(device.held_bytes)} when the snapshot was taken{of_it}."


def first_device(explained: Explained) -> DeviceMemory | None:
    """The device that the headline is about."""
    return min(explained.snapshot.devices, key=lambda it: (not it.ooms, -it.held_bytes), default=None)


def chip(explained: Explained) -> tuple[str, str]:
    """A word and its tone."""
    device = first_device(explained)
    if device is None:
        return "nothing held", "neutral"
    worst = explained.judgement.findings[0].severity.value if explained.judgement.findings else "neutral"
    return device.moment if device.moment != "end" else "state", worst


def moment(device: DeviceMemory) -> str:
    """When the explained moment was."""
    words = {"peak": "at its peak", "out of memory": "when memory ran out", "end": "when the snapshot was taken"}
    when = words[device.moment]
    if device.moment_s is not None and device.span_s:
        when += f", {wording.seconds(device.moment_s)} into {wording.seconds(device.span_s)} of events"
    return when


def line(holding: Holding, root: str) -> tuple[str, str]:
    """The user's line and torch's function, each "" where there is none."""
    place = wording.place(holding.site, root) if holding.site else ""
    if not place and not holding.function and holding.stage == "backward":
        return "", "autograd's own thread"
    return place, holding.function


def layout_rows(layout: Fragmentation) -> list[tuple[str, str]]:
    """How reserved memory lay."""
    rows = [
        ("reserved", byte_size(layout.reserved_bytes)),
        ("held, rounded", byte_size(layout.held_bytes)),
        ("free", byte_size(layout.free_bytes)),
    ]
    if layout.free_bytes:
        rows += [
            ("largest free piece", byte_size(layout.largest_free_bytes)),
            ("free in segments in use", f"{byte_size(layout.split_bytes)} ({share(layout.split_share)})"),
        ]
    return [*rows, ("segments", wording.count(layout.segments))]


def about_rows(device: DeviceMemory) -> list[tuple[str, str]]:
    """The allocator's doings; what did not happen is left out."""
    rows: list[tuple[str, str | None]] = [
        ("events", wording.count(device.events) if device.events else None),
        ("training steps in them", wording.count(device.steps) if device.steps else None),
        ("segments asked of the driver", wording.count(device.driver_calls) if device.driver_calls else None),
        ("times the cache was given back to ask again", wording.count(device.retries) if device.retries else None),
        ("calls of empty_cache()", wording.count(device.emptied) if device.emptied else None),
        ("held at the end", byte_size(device.end_held_bytes) if device.moment != "end" else None),
        ("reserved at the end", byte_size(device.end.reserved_bytes) if device.moment != "end" else None),
        ("lost to rounding at the end", byte_size(device.rounding_bytes) if device.rounding_bytes else None),
        (
            "freed, but in use by another stream",
            byte_size(device.awaiting_free_bytes) if device.awaiting_free_bytes else None,
        ),
        ("in private pools (CUDA graphs)", byte_size(device.graph_bytes) if device.graph_bytes else None),
        ("streams", wording.count(device.streams) if device.streams > 1 else None),
        ("expandable segments", "yes" if device.expandable else "no"),
    ]
    return [(name, text) for name, text in rows if text is not None]
