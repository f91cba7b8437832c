"""Read a trace file into a `Recording`, in bounded memory.

In:  a chrome trace of Kineto (`torch.profiler`), plain or gzipped, of 2021's schema or a later one.
Out: `Recording`. What is complete is used; its notices say what is not.

Times in every schema are microseconds (`displayTimeUnit` is about drawing alone), possibly with a fraction; a fraction
of a number of sixteen digits is kept to a quarter of a microsecond, that of a duration exactly.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from profiler.errors import ProfError
from profiler.record.trace.collect import Collector
from profiler.record.trace.metadata import capacities_of, device_names, distributed_of, whole
from profiler.record.trace.recording import Recording
from profiler.record.trace.scan import PIECE_BYTES, scan
from profiler.record.trace.split import Document, batches, split
from profiler.record.trace.stream import Source

MOST_EVENTS = 20_000_000  # with a length, whether it can be read or not; a file of 6 GB holds about so many
MOST_OF_ANY_KIND = 4 * MOST_EVENTS  # arrows and counters beside them: a launch has two
MOST_LOST = 0.05  # of the events unread, beyond which what the device seems not to have done tells nothing
_ENDINGS = re.compile(r"(\.pt)?(\.trace)?\.json(\.gz)?$|\.gz$", re.IGNORECASE)


def label_of(path: Path) -> str:
    """A trace's name without its endings."""
    return _ENDINGS.sub("", path.name) or path.name


def read_trace(path: Path, block_bytes: int = PIECE_BYTES) -> Recording:
    """Read one file. Raises ProfError, in one sentence, where it is no trace or holds no event."""
    source, document, collector = Source(path, block_bytes), Document(), Collector()
    notices: list[str] = []
    lost = ""
    seen = 0
    pieces = batches(split(source, document, str(path), partial(scan, numbers=collector.numbers)))
    for piece in pieces:
        collector.add(piece)
        seen += len(piece)
        of_some_length = collector.kept + collector.damaged + collector.far + document.damaged
        if of_some_length >= MOST_EVENTS or seen >= MOST_OF_ANY_KIND:
            notices.append(f"the trace is very long: only its first {collector.kept:,} events were used")
            lost = "only the first events of the trace were used"
            break
    else:
        if source.broken or not document.complete:
            how = source.broken or "it ends within its events"
            notices.append(f"the trace breaks off: {how}; what is complete was used")
            lost = "the trace breaks off, and events of the device come last in it"
    if collector.far:
        notices.append(f"{collector.far:,} events lie more than a day from the others and were left out")
    damaged = document.damaged + collector.damaged
    if damaged:
        notices.append(f"{damaged:,} {'event' if damaged == 1 else 'events'} could not be read and were left out")
    missing = damaged + collector.far
    if collector.kept == 0:
        raise ProfError(f"{path} holds no event with a length: {_why_none(source, missing)}.")
    if not lost and missing > MOST_LOST * (collector.kept + missing):
        lost = f"{100 * missing / (collector.kept + missing):.0f} % of the events of the trace could not be read"
    return _recording(path, source, document, collector, notices, lost)


def _why_none(source: Source, missing: int) -> str:
    if source.broken:
        return "it broke off before the first one"
    if missing:
        return f"none of its {missing:,} events can be read or has a time that can be believed; record it again"
    return "it was recorded while nothing ran"


def _recording(
    path: Path, source: Source, document: Document, collector: Collector, notices: list[str], lost: str
) -> Recording:
    said = {**document.tail, **document.head}
    properties = said.get("deviceProperties")
    return Recording(
        file=str(path),
        label=label_of(path),
        origin_ns=collector.origin_ns,
        base_ns=whole(said.get("baseTimeNanoseconds")) or 0,
        length_ns=collector.length_ns,
        operators=collector.operators(),
        calls=collector.calls(),
        device=collector.device(),
        python=collector.python(),
        memory=collector.memory(),
        names=tuple(collector.numbers.names.known),
        tracks=tuple(collector.numbers.tracks.known),
        given=collector.numbers.shapes.given(),
        numbering=collector.numbering,
        distributed=distributed_of(said.get("distributedInfo"), path.name),
        devices=device_names(properties),
        capacities=capacities_of(properties),
        unpacked_bytes=source.unpacked,
        notices=tuple(notices),
        lost=lost,
    )
