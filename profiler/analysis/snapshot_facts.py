"""What a snapshot of torch's caching allocator says: the part of `Facts` that comes from it.

Values only; sizes are bytes as tensors asked for them, unless a name says that they were reserved from the driver.
`None` means *not recorded*. Categories and stages are inferred from stacks and lifetimes: see `analysis/snapshot`.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.site import Site

CATEGORIES = (
    "parameters",
    "gradients",
    "optimizer",
    "activations",
    "retained",
    "loaded",
    "communication",
    "workspace",
    "other",
    "before_recording",
    "unknown",
)


@dataclass(frozen=True, slots=True)
class Holding:
    """Allocations of one line, category and stage that were held at the moment."""

    site: Site | None  # the user's innermost line; None: no line of theirs was in the stack
    function: str  # of torch's, that asked: "torch.nn.modules.linear.forward"; "" where nothing is known
    category: str  # of CATEGORIES
    stage: str  # in which they were made; "" where that is not known
    bytes: int
    count: int
    largest_bytes: int
    steps: int = 1  # different steps in which they were made


@dataclass(frozen=True, slots=True)
class Fragmentation:
    """How what was reserved lay: all of one device."""

    reserved_bytes: int
    held_bytes: int  # by tensors, rounded as the allocator does
    free_bytes: int  # reserved and held by nobody
    largest_free_bytes: int  # in one piece
    split_bytes: int  # of free_bytes: in segments that hold something, so that they can't be given back
    segments: int

    @property
    def split_share(self) -> float:
        """Of the reserved."""
        return self.split_bytes / self.reserved_bytes if self.reserved_bytes else 0.0


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """One allocation that failed."""

    time_s: float | None  # since the first event
    requested_bytes: int
    driver_free_bytes: int  # what the driver called free
    held_bytes: int
    layout: Fragmentation
    site: Site | None
    stage: str

    @property
    def fragmented(self) -> bool:
        """Whether the bytes were there and only no piece was large enough."""
        free = self.layout.free_bytes
        return self.driver_free_bytes < self.requested_bytes <= free and self.layout.largest_free_bytes < free


@dataclass(frozen=True, slots=True)
class MemoryLine:
    """Memory over the events, decimated; each point is the fullest moment of its stretch."""

    time_s: tuple[float, ...]  # since the first event; () where the events have no times
    event: tuple[int, ...]
    held_bytes: tuple[int, ...]
    reserved_bytes: tuple[int, ...]
    categories_bytes: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One device."""

    device: int
    moment: str  # that is explained: "out of memory", "peak", or "end" where no events were recorded
    moment_s: float | None  # since the first event
    moment_stage: str
    moment_site: Site | None
    held_bytes: int  # at the moment
    categories_bytes: dict[str, int]  # of held_bytes, largest first
    stages_bytes: dict[str, int]  # of held_bytes, by the stage that made it
    holdings: tuple[Holding, ...]  # largest first
    layout: Fragmentation  # at the moment
    end: Fragmentation  # as the snapshot found it
    end_held_bytes: int
    rounding_bytes: int  # held at the end beyond what was asked for
    awaiting_free_bytes: int  # at the end: given back, but another stream may still use it
    graph_bytes: int  # at the end: reserved by private pools (CUDA graphs, MemPool)
    streams: int
    expandable: bool
    events: int
    span_s: float | None  # from the first to the last event
    steps: int  # optimizer steps that the events show
    first_events_lost: bool  # memory was held before the oldest event
    unmatched_events: int  # that don't fit the state: the recording is incomplete
    ooms: tuple[OutOfMemory, ...]
    retries: int  # the driver had no memory: everything cached was given back, and asked for again
    emptied: int  # calls of torch.cuda.empty_cache() that gave something back
    driver_calls: int  # segments asked of the driver
    line: MemoryLine | None


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """All devices of a snapshot that hold anything."""

    source: str  # the file
    layout: str  # as `record.snapshot.Snapshot.layout`
    devices: tuple[DeviceMemory, ...]
    stacks: bool  # stacks were recorded
    settings: str  # PYTORCH_CUDA_ALLOC_CONF, where it was written
    notices: tuple[str, ...]
