"""A snapshot of torch's caching allocator, in one form whatever wrote it.

In:  the pickle of `torch.cuda.memory._dump_snapshot`, or of `torch.cuda.memory_snapshot()`.
Out: `Snapshot`: the segments and blocks as they lay at its end, and each device's events before it.

The format is that of `torch/cuda/memory.py` (`_snapshot`) and `torch/cuda/_memory_viz.py`. Read are its layouts from
torch 1.12 on: a bare list of segments; blocks with a `history` instead of `frames`; with and without events, times,
addresses of blocks, annotations and the allocator's settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from profiler.errors import ProfError
from profiler.record.plain_pickle import load_plain, require_memory

NO_STACK = -1  # the stack was not recorded; an empty one was, and holds no Python
ACTIONS = (
    "alloc",
    "free_requested",
    "free_completed",
    "segment_alloc",
    "segment_free",
    "segment_map",
    "segment_unmap",
    "oom",
    "snapshot",
)
ALLOCATED, AWAITING_FREE, INACTIVE = "allocated", "awaiting_free", "inactive"
_STATES = {
    "active_allocated": ALLOCATED,
    "active_pending_free": AWAITING_FREE,
    "active_awaiting_free": AWAITING_FREE,
    "inactive": INACTIVE,
}
_LARGEST = 2**63
_MOST_DEVICES = 4096


class Frame(NamedTuple):
    """One call of a stack."""

    file: str
    line: int
    function: str


class Block(NamedTuple):
    """A piece of a segment: what one tensor's storage got, or a gap."""

    address: int
    size: int
    requested: int  # of it, asked for; the rest is rounding
    state: str  # ALLOCATED, AWAITING_FREE (by another stream) or INACTIVE
    stack: int  # of its allocation: an index into `Snapshot.stacks`, or NO_STACK
    category: str  # where the writer says so; else ""


class Segment(NamedTuple):
    """What one call of the driver gave."""

    device: int
    address: int
    size: int
    stream: int
    pool: tuple[int, int]  # (0, 0): the common one; others belong to CUDA graphs and MemPools
    large: bool
    expandable: bool
    blocks: tuple[Block, ...]


class Event(NamedTuple):
    """One act of the allocator."""

    action: str  # of ACTIONS
    address: int
    size: int  # as asked for, not rounded
    stack: int
    time_us: int | None
    free: int | None  # of "oom": bytes that the driver called free
    compiling: bool
    category: str


class Annotation(NamedTuple):
    """The begin or end of a `record_function` range."""

    name: str
    begins: bool
    time_us: int


class Snapshot(NamedTuple):
    """All of it."""

    layout: str  # "current", "history" (torch 1.12 to 2.0) or "segments" (no events)
    segments: tuple[Segment, ...]
    events: dict[int, tuple[Event, ...]]  # by device, oldest first
    stacks: tuple[tuple[Frame, ...], ...]  # innermost call first
    annotations: tuple[Annotation, ...]
    settings: dict[str, Any]  # of the allocator; {} where they were not written
    unknown: int  # events of a kind that this reader does not know


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot. Raises ProfError when it can't be read or is none."""
    try:
        if path.exists() and not path.is_file():
            raise ProfError(f"{path} is not a file: give the one that `torch.cuda.memory._dump_snapshot` wrote.")
        require_memory(path.stat().st_size, 0, str(path))
        data = path.read_bytes()
    except OSError as error:
        raise ProfError(f"{path} can't be read: {error.strerror or error}.") from error
    return normalise(load_plain(data, str(path)), str(path), len(data))


def normalise(value: Any, name: str, size: int) -> Snapshot:
    """A snapshot from the plain data of its pickle, which took `size` bytes.

    Raises ProfError where the data is no snapshot, or one list stands in it so often that it is larger than its file.
    """
    reader = _Reader(name, size)
    if isinstance(value, list):
        value = {"segments": value}
    if not isinstance(value, dict) or not isinstance(value.get("segments"), list):
        raise reader.error("it has no list of segments: a snapshot comes from `torch.cuda.memory._dump_snapshot(path)`")
    segments = [reader.segment(item, index) for index, item in enumerate(reader.items(value["segments"], "segments"))]
    traces = value.get("device_traces") or value.get("traces") or []
    events = {}
    for device, trace in enumerate(reader.items(traces, "device_traces")):
        if device >= _MOST_DEVICES:
            raise reader.error(f"it has events of more than {_MOST_DEVICES} devices")
        if trace:
            events[device] = tuple(reader.events(trace, device))
    settings = value.get("allocator_settings")
    layout = "history" if reader.saw_history else "current" if "device_traces" in value else "segments"
    return Snapshot(
        layout,
        tuple(segments),
        events,
        tuple(reader.stacks),
        tuple(reader.annotations(value.get("external_annotations") or [])),
        {str(key): item for key, item in settings.items()} if isinstance(settings, dict) else {},
        reader.unknown,
    )


class _Reader:
    """What is shared while one snapshot is read: its stacks, and how much of it was seen."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.left = size + 1000  # things that so many bytes can hold: a list in many places is a bomb
        self.stacks: list[tuple[Frame, ...]] = []
        self.saw_history = False
        self.unknown = 0
        self._frames: dict[int, Frame] = {}  # by the identity of the dict that it was read from
        self._by_list: dict[int, int] = {}
        self._by_dicts: dict[tuple[int, ...], int] = {}
        self._by_frames: dict[tuple[Frame, ...], int] = {}

    def error(self, what: str) -> ProfError:
        return ProfError(f"{self.name} is no memory snapshot that can be read: {what}.")

    def items(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise self.error(f"its {where} is {_kind(value)} where a list belongs")
        self.left -= len(value)
        if self.left < 0:
            raise self.error("its lists stand in so many places that it is larger than its file: it was made so")
        return list(value)

    def number(self, item: dict[str, Any], key: str, where: str, default: int | None = None) -> int:
        value = item.get(key, default)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"the {key} of {where} is {_kind(value)} where a number belongs")
        if not 0 <= value < _LARGEST:
            raise self.error(f"the {key} of {where} is {value}, which no memory has")
        return value

    def record(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(f"{where} is {_kind(value)} where a dict belongs")
        return value

    def segment(self, value: Any, index: int) -> Segment:
        where = f"segment {index}"
        item = self.record(value, where)
        address = self.number(item, "address", where, 0)
        blocks = []
        at = address
        for number, block in enumerate(self.items(item.get("blocks"), f"blocks of {where}")):
            blocks.append(self.block(block, f"block {number} of {where}", at))
            at += blocks[-1].size
        return Segment(
            self.number(item, "device", where, 0),
            address,
            self.number(item, "total_size", where, at - address),
            _whole(item.get("stream")),
            _pool(item.get("segment_pool_id")),
            item.get("segment_type") != "small",
            item.get("is_expandable") is True,
            tuple(blocks),
        )

    def block(self, value: Any, where: str, address: int) -> Block:
        item = self.record(value, where)
        size = self.number(item, "size", where)
        state = _STATES.get(str(item.get("state")))
        if state is None:
            raise self.error(f"the state of {where} is {str(item.get('state'))[:40]!r}")
        requested, frames = item.get("requested_size"), item.get("frames")
        if "history" in item:
            self.saw_history = True
            history = self.items(item["history"], f"history of {where}")
            newest = self.record(history[0], f"the history of {where}") if history else {}
            requested = newest.get("real_size", requested)
            frames = newest.get("frames", frames)
        asked = self.number({"requested_size": requested}, "requested_size", where, size)
        return Block(
            self.number(item, "address", where, address),
            size,
            min(asked, size) if state != INACTIVE else 0,
            state,
            self.stack(frames, where),
            _text(item.get("category")),
        )

    def events(self, value: Any, device: int) -> Iterable[Event]:
        for index, each in enumerate(self.items(value, f"trace of device {device}")):
            where = f"event {index} of device {device}"
            item = self.record(each, where)
            action = item.get("action")
            if action not in ACTIONS:
                self.unknown += 1
                continue
            time_us, context = item.get("time_us"), item.get("compile_context")
            yield Event(
                str(action),
                self.number(item, "addr", where, 0),
                self.number(item, "size", where, 0),
                self.stack(item.get("frames"), where),
                time_us if isinstance(time_us, int) and not isinstance(time_us, bool) else None,
                self.number(item, "device_free", where, 0) if action == "oom" else None,
                isinstance(context, str) and context not in ("", "N/A"),
                _text(item.get("category")),
            )

    def stack(self, value: Any, where: str) -> int:
        """The number of a stack; the same calls have the same number."""
        if value is None:
            return NO_STACK
        known = self._by_list.get(id(value))
        if known is not None:
            return known
        items = self.items(value, f"frames of {where}")
        same = tuple(map(id, items))  # torch writes one dict a frame, and all of them live while this reader reads
        number = self._by_dicts.get(same)
        if number is None:
            frames = tuple(self.frame(each, where) for each in items)
            number = self._by_dicts[same] = self._by_frames.setdefault(frames, len(self.stacks))
            if number == len(self.stacks):
                self.stacks.append(frames)
        self._by_list[id(value)] = number
        return number

    def frame(self, value: Any, where: str) -> Frame:
        known = self._frames.get(id(value))
        if known is None:
            item = self.record(value, f"a frame of {where}")
            known = Frame(_text(item.get("filename")), _whole(item.get("line")), _text(item.get("name")))
            self._frames[id(value)] = known
        return known

    def annotations(self, value: Any) -> Iterable[Annotation]:
        for each in self.items(value, "external_annotations"):
            item = self.record(each, "an annotation")
            stage, time_us = item.get("stage"), item.get("time_us")
            if stage in ("START", "END") and isinstance(time_us, int):
                yield Annotation(_text(item.get("name")), stage == "START", time_us)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(value: Any) -> str:
    return value[:1000] if isinstance(value, str) else ""


def _pool(value: Any) -> tuple[int, int]:
    if isinstance(value, list | tuple) and len(value) == 2:
        return (_whole(value[0]), _whole(value[1]))
    return (0, 0)


_KINDS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda value: value is None, "missing"),
    (lambda value: isinstance(value, dict), "a dict"),
    (lambda value: isinstance(value, list | tuple), "a list"),
    (lambda value: isinstance(value, str), "a text"),
)


def _kind(value: Any) -> str:
    return next((text for test, text in _KINDS if test(value)), f"a {type(value).__name__}")
