"""Facts of the ranks of a job: what each rank reduces itself to, and what they come to together.

Values only. `RankFacts` is what a rank leaves in its folder, a few kilobytes; merging reads nothing else. Times are
milliseconds and means per step over the measured steps unless the name says otherwise; `None` means *not measured*.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from profiler.analysis.site import Site

FORMAT = 1  # of a rank's facts as they lie on the disk
Packed = bytes  # a column of numbers
SPAN_CAUSES = ("checkpoint", "evaluation", "compile")


@dataclass(frozen=True, slots=True)
class RankLine:
    """A line of the user's in one stage of one rank."""

    site: Site
    leaf: str  # the function that really ran there; "" when it is the line itself
    ms: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class RankStage:
    """One stage of one rank."""

    mean_ms: float
    median_ms: float
    p95_ms: float
    call: Site | None = None
    lines: tuple[RankLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Messages of one kind, type and size (within a factor of two) in one group."""

    kind: str  # as `vocabulary.COLLECTIVES`
    group: str
    group_size: int
    backend: str
    dtype: str | None
    calls: float  # per step
    bytes: float  # per call
    blocked_ms: float | None  # per call, mean, waiting for late ranks included; None: only issued
    shortest_ms: float | None  # the shortest call
    asynchronous: bool
    every: int = 0  # of the calls' numbers that `times` holds: their multiples; 0: it holds none
    times: Packed = b""  # little-endian 32-bit floats, ms blocked
    members: tuple[int, ...] = ()  # of the group, where it is not all ranks'
    peer: int | None = None  # of a message to one rank, or from one


@dataclass(frozen=True, slots=True)
class Reduction:
    """DistributedDataParallel, as its reducer describes itself."""

    module: str
    bucket_cap_bytes: int | None
    bucket_bytes: tuple[int, ...]
    parameter_bytes: int
    parameter_tensors: int
    unused_parameter_bytes: int
    dtypes: str
    find_unused_parameters: bool
    gradient_as_bucket_view: bool
    static_graph: bool
    comm_hook: str | None
    buffers_broadcast: bool
    synced: int  # backward passes that reduced
    unsynced: int  # and those under `no_sync`
    samples: int  # iterations that the next three are means over
    total_ms: float | None  # from the first bucket's start to the end of the reduction
    hidden_ms: float | None  # of it, while backward still computed
    compute_ms: float | None  # of the backward pass


@dataclass(frozen=True, slots=True)
class LastSeen:
    """Where a rank stood when its record ended."""

    doing: str  # a collective, a stage or a span; "" for none
    communicating: bool
    raised: bool  # it left that by an exception
    for_s: float  # between its beginning and the last sign of life
    unix_s: float  # of the last sign of life
    site: Site | None


@dataclass(frozen=True, slots=True)
class FlightEntry:
    """A collective as torch's flight recorder kept it."""

    group: str
    description: str  # of the group
    sequence: int  # of collectives within the group
    operation: str
    sizes: str  # "[4, 3] float32" in, and out where that differs
    input_sizes: tuple[tuple[int, ...], ...]
    output_sizes: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]
    done: bool
    started: bool
    created_unix_s: float
    site: Site | None  # of the user's


@dataclass(frozen=True, slots=True)
class FlightRecord:
    """What one rank issued last, oldest first."""

    version: str
    groups: dict[str, tuple[int, ...]]
    entries: tuple[FlightEntry, ...]
    written_unix_s: float


@dataclass(frozen=True, slots=True)
class Series:
    """Steps in detail: the same numbers on each rank, so that they can be laid side by side.

    Columns are little-endian 32-bit floats, milliseconds, but for `start` (64-bit integers, ns of the rank's clock).
    They are the stages by name; `gap`: time outside of steps before this one; `gc`; and for each phase with
    collectives that end together `comm_<phase>` (blocked), `from_<phase>`, `to_<phase>` (since the step's start).
    """

    index: bytes = b""  # little-endian 32-bit integers
    start: bytes = b""
    left_out: bytes = b""  # one byte a step: 1 where something of ours ran, or before warm-up ended
    columns: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RankFacts:
    """All that is kept of one rank for the job."""

    format: int
    rank: int
    world_size: int
    pid: int
    host: str
    boot_id: str
    backend: str
    device: str
    torch: str | None
    ended: bool  # in an orderly way
    disabled: str | None  # an error of ours switched the recording off
    duration_s: float
    steps: int
    measured: int
    step_median_ms: float | None
    step_mean_ms: float | None
    step_noise_ms: float
    micro_batches: float
    stages: dict[str, RankStage]
    calls: dict[str, float]  # collectives per step by kind
    blocked_ms: dict[str, float]  # blocked by kind
    phases_ms: dict[str, float]  # blocked in collectives that end together, by phase
    exchanges: tuple[Exchange, ...]
    reduction: Reduction | None
    gc_ms: float | None
    items: float | None  # per batch
    load_ms: float | None  # per batch, as are the next two
    preprocess_ms: float | None
    collate_ms: float | None
    spans_s: dict[str, float]  # checkpoint, evaluation, …: seconds in all
    span_sites: dict[str, Site]
    peak_rss_bytes: int | None
    peak_device_bytes: int | None
    last: LastSeen | None
    lost_steps: bool  # part of the record was dropped: its steps can't be numbered
    series: Series
    asynchronous: bool = False  # its device runs behind the host
    device_times: bool = False  # and stages are timed on the device's own clock
    flight: FlightRecord | None = None
    restart: int = 0  # how often an elastic launcher had restarted the job
    without_core: float | None = None  # share of the time that its training thread was ready to run and had no core
    throttle_reasons: int | None = None  # bits of NVML's that were ever set


# the job


@dataclass(frozen=True, slots=True)
class RankRow:
    """One rank in the job's table."""

    rank: int
    host: str
    state: str  # "ok", or what was wrong
    steps: int
    step_ms: float | None
    stages_ms: dict[str, float]
    waiting_ms: float | None  # blocked until a later rank came; None: not told


@dataclass(frozen=True, slots=True)
class Cause:
    """What one rank does longer than the others."""

    what: str  # a stage; "gap"; "gc" where garbage collection is the larger part of it
    ms: float  # longer than the typical other rank, per step
    own_ms: float
    others_ms: float


@dataclass(frozen=True, slots=True)
class AlsoLate:
    """Another rank that comes late steadily, whether or not the latest one hides it."""

    rank: int
    late_ms: float  # after the typical rank, per step
    cause: Cause | None  # the longest


@dataclass(frozen=True, slots=True)
class LateRank:
    """The rank, or the ranks of one host, that the others wait for."""

    rank: int
    late_ms: float  # mean over the compared steps: what the others wait for it
    share_of_steps: float  # in which it was the last to come
    share_of_waiting: float  # of all waiting for late ranks, what is due to it
    causes: tuple[Cause, ...]  # longest first
    line: RankLine | None  # of the user's, where the longest cause has one that the others have not or have shorter
    span: str | None  # where the cause is "gap": what ran outside of its steps
    span_site: Site | None
    uniformly_slower: float | None  # factor by which all of its computing is slower, where it is one factor
    items_ratio: float | None  # items of its batches against the others'
    worker_part: str | None  # where it waits for data: "load", "preprocess" or "collate", whichever differs most
    host: str | None = None  # where all ranks of one host are late together: `rank` is then one of them
    host_ranks: int = 1
    also: tuple[AlsoLate, ...] = ()  # latest first
    also_count: int = 0  # of them, those left out of `also` counted too
    alone_ms: float | None = None  # what the step would save if `rank`, or its host, came in time
    saves_ms: float | None = None  # and if all that are named did
    without_core: float | None = None  # share of the time that its training thread was ready to run and had no core
    others_without_core: float | None = None  # of the median other rank
    throttled: bool = (
        False  # its device slowed its clocks down for heat or power, and was read of all others that theirs did not
    )
    cause_steps: float | None = None  # share of the steps in which the longest cause takes it longer than the others


@dataclass(frozen=True, slots=True)
class CollectiveRow:
    """Messages of one kind and size, over all ranks."""

    kind: str
    group: str
    group_size: int
    backend: str
    dtype: str | None
    calls: float  # per step and rank
    bytes: float
    ms: float | None  # per call, on the rank that waits least: the transfer
    shortest_ms: float | None
    gigabytes_per_s: float | None  # algorithm bandwidth: bytes ÷ time of that rank


@dataclass(frozen=True, slots=True)
class LinkModel:
    """What a transfer takes by this run's own collectives: `latency_ms` + bytes on the wire / `gigabytes_per_s`.

    Errors are half widths of intervals that hold the true value 19 times in 20.
    """

    kind: str
    backend: str
    ranks: int  # of the group
    latency_ms: float  # of a call, through all hops
    latency_error_ms: float
    gigabytes_per_s: float  # that each rank sends
    gigabytes_error: float
    smallest_bytes: float  # of the messages that it was measured with
    largest_bytes: float
    sizes: int

    def transfer_ms(self, messages: float, total_bytes: float) -> float:
        """What so many messages with so many bytes in all take."""
        wire = total_bytes * wire_factor(self.kind, self.ranks)
        return messages * self.latency_ms + wire / self.gigabytes_per_s / 1e6

    def transfer_error_ms(self, messages: float, total_bytes: float) -> float:
        """How far off that may be."""
        wire = total_bytes * wire_factor(self.kind, self.ranks)
        slowest = self.gigabytes_per_s - self.gigabytes_error
        spent = wire / 1e6 / slowest - wire / 1e6 / self.gigabytes_per_s if slowest > 0 else float("inf")
        return messages * self.latency_error_ms + spent


def wire_factor(kind: str, ranks: int) -> float:
    """Bytes that a rank of a ring sends for each byte of the message; where ranks gather, the message is the whole."""
    once = (ranks - 1) / ranks if ranks > 1 else 0.0
    return 2 * once if kind in ("all_reduce", "gradients (DDP)") else once


@dataclass(frozen=True, slots=True)
class SlowLink:
    """Ranks between which messages take longer than between others that exchange the same."""

    ranks: tuple[int, ...]  # of the group; of a pair the sender first
    pair: bool  # messages from one rank to another
    kind: str
    bytes: float
    calls: float  # per step
    ms: float  # a call, once all had come
    typical_ms: float  # of the others
    others: int  # groups, or pairs, that it was compared with
    host: str | None  # the one host, or ...
    rank: int | None  # ... the one rank that all slow ones have in common, and no other one has

    @property
    def excess_ms(self) -> float:
        """What it costs per step."""
        return self.calls * (self.ms - self.typical_ms)


@dataclass(frozen=True, slots=True)
class Clocks:
    """How the ranks' clocks were brought together."""

    method: str  # "one host", "collectives", or why they were not
    aligned: bool
    error_ms: float  # half width of the widest interval that holds an offset
    largest_offset_ms: float
    largest_drift_ppm: float


@dataclass(frozen=True, slots=True)
class Hang:
    """A collective that did not end."""

    collective: str
    arrived: tuple[int, ...]
    absent: tuple[int, ...]
    for_s: float
    sites: dict[str, Site]  # where each rank stood, by its number (as text, for JSON)
    doing: dict[str, str]
    unknown: tuple[int, ...] = ()  # of the group, without a dump and without a record
    group: str = ""  # by the flight recorder, as is what follows
    sequence: int | None = None  # of the collective in its group
    sizes: str = ""
    recorder: bool = False  # the flight recorder says so


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The same collective of a group, for which ranks called different things."""

    group: str
    sequence: int
    what: str  # "operation", "size" or "type"
    calls: dict[str, tuple[int, ...]]  # what was called → by which ranks, most ranks first
    sites: dict[str, Site]  # by rank


@dataclass(frozen=True, slots=True)
class RanksFacts:
    """The job: all its ranks side by side."""

    world_size: int
    hosts: int
    recorded: tuple[int, ...]
    missing: tuple[int, ...]  # expected, and left no record
    typical: int
    slowest: int | None  # most work of its own per step, where it differs
    compared_steps: int
    step_ms: float | None  # mean over ranks
    exposed_ms: float | None  # communication that holds the step up; mean over ranks
    network_ms: float | None  # of it, what the rank that waits least needs: transfer
    waiting_ms: float | None  # of it, waiting for ranks that come late
    hidden_ms: float | None  # communication that ran while backward computed (DDP's own figure)
    phases_ms: dict[str, float]  # exposed, by phase of the step
    rows: tuple[RankRow, ...]
    late: LateRank | None  # one rank to which most of the waiting is due
    turns_ms: float | None  # waiting while ranks take turns in being late
    turns: tuple[Cause, ...]  # what the rank that comes last then does longer than the others, longest first
    collectives: tuple[CollectiveRow, ...]
    reduction: Reduction | None
    backend: str
    clocks: Clocks
    hang: Hang | None
    withheld: dict[str, str]  # what is not said → why
    notices: tuple[str, ...]
    links: tuple[LinkModel, ...] = ()  # by kind; none where `withheld` has "link"
    mismatch: Mismatch | None = None  # the first, by the flight recorder
    dumped: tuple[int, ...] = ()  # ranks whose flight recorder was read
    slow_links: tuple[SlowLink, ...] = ()  # costliest first
    kinds_ms: dict[str, float] = field(default_factory=dict)  # blocked per step, by kind, on the rank it blocks least
