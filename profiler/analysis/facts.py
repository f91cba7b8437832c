"""The facts of a run: all that rules may read and reports may show.

Values only. Times are milliseconds unless the name says otherwise; `None` always means *not measured*, and
`Facts.not_measured` says why. Statistics of steps and stages are over the measured steps: those after
warm-up in which nothing of ours ran.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.excerpt import StepExcerpt
from profiler.analysis.path_facts import CriticalPath
from profiler.analysis.rank_facts import Clocks, RanksFacts
from profiler.analysis.roofline_facts import Roofline
from profiler.analysis.site import Site
from profiler.analysis.snapshot_facts import SnapshotFacts


@dataclass(frozen=True, slots=True)
class LineTime:
    """Time at one line of the user's, inside one stage: sampled, or measured by the stacks of a trace."""

    site: Site  # the innermost line of the user's own code
    leaf: str  # the function that really ran there, e.g. "json.encoder.encode"; "" when it is the line itself
    samples: int
    share_of_stage: float
    ms_per_step: float  # share_of_stage x the stage's mean
    source: str = ""  # the text of the line, where its file could be read
    measured: bool = False  # and not sampled

    def told_by(self, least: float) -> bool:
        """Whether it is known well enough: measured, or by so many samples."""
        return self.measured or self.samples >= least


@dataclass(frozen=True, slots=True)
class StageFacts:
    """One stage over the measured steps."""

    name: str
    median_ms: float
    mean_ms: float
    p5_ms: float
    p95_ms: float
    share: float  # of mean step time, 0 to 1
    calls_per_step: float
    call: Site | None  # the user's line that enters the stage
    lines: tuple[LineTime, ...] = ()  # most time first
    parts_ms: dict[str, float] = field(default_factory=dict)  # mean per step: "zero_grad", "clip", "step", "loss", …
    host_ms: float | None = None  # mean by the host's clock, where the times above are the device's
    part_calls: dict[str, Site] = field(default_factory=dict)  # the user's line that first called each of these parts

    @property
    def happened(self) -> bool:
        """Whether it took time in the measured steps: a training without ranks does not communicate."""
        return self.mean_ms > 0 or bool(self.host_ms)  # a device may need no time for what the host did


@dataclass(frozen=True, slots=True)
class OutlierStep:
    """A step much longer than its neighbours."""

    index: int
    start_s: float  # since the first step
    wall_ms: float
    stage: str  # the stage that grew most
    grew_ms: float
    cause: str | None  # "garbage collection", "epoch boundary", … where the record shows one


@dataclass(frozen=True, slots=True)
class StepFacts:
    """The steps of the run, and how steady they were."""

    count: int  # all that were seen
    warmup: int  # of them, left out at the start
    measured: int  # of them, behind the statistics
    median_ms: float
    mean_ms: float
    p5_ms: float
    p95_ms: float
    noise_ms: float  # half width of the 95 % interval of the median
    micro_batches: float  # backward passes per step
    batches: float  # batches taken from a loader per step
    drift_share: float | None  # change of the median from the first to the last third; None: within noise
    outliers: tuple[OutlierStep, ...]
    outlier_share: float  # of the measured steps
    explicit: bool  # cut by profiler.step()
    epoch_starts: int = 0  # measured steps in which a loader's iterator was made
    epoch_start_ms: float | None = None  # mean data_wait of those beyond the other steps' mean, without making it
    outlier_ms: dict[str, float] = field(default_factory=dict)  # time of outliers beyond the median, by cause; a step


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """The first items of the data set, each compared with itself in another epoch."""

    compared: int  # pairs of one item in two epochs
    same: int  # of them, those whose values were the same
    bytes: float  # mean size of an item


@dataclass(frozen=True, slots=True)
class BatchContents:
    """What the first batches were made of; means."""

    arrays: float
    array_bytes: float
    objects: float  # leaves that are no arrays: numbers, text, the user's own types
    unpickle_ms: float | None = None  # their numbers and text, once; None: too few to be timed
    pickled_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """The worker processes themselves, from looks at each of them."""

    processes: int  # that were looked at
    threads: int | None  # of one worker, its loop and the queue's with it; the highest seen
    other_cpu_share: float | None  # of the workers' CPU time, in threads other than the one that makes batches
    cpu_ms: float | None  # of a worker, all threads, per batch
    private_bytes: int | None  # memory that a worker shares with no other, summed over workers, at the last looks
    private_growth_bytes: int | None  # by which that grew between the first looks and the last, summed
    growth_batches: int | None  # made between them, summed


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What the DataLoader's workers (or, with num_workers=0, the training thread) did per batch."""

    processes: int  # 0: the training thread loads
    batches: int
    load_ms: float  # blocked: storage, network, locks; median per batch, as are the next three
    preprocess_ms: float  # computing in the dataset's __getitem__ / iterator, transforms
    collate_ms: float
    run_delay_ms: float  # runnable, but no core was free
    batch_ms: float  # all of it, mean per batch
    batch_p95_ms: float
    busy_share: float  # of the workers' time within the steps
    read_bytes: float | None  # from storage, per batch
    items: float | None  # per batch
    lines: tuple[LineTime, ...] = ()  # ms_per_step here is ms per batch
    read_chars: float | None = None  # through read(2), cached or not, per batch
    read_calls: float | None = None  # of read(2), per batch
    item_facts: ItemFacts | None = None  # None: no item was seen in two epochs, or it can't be compared
    contents: BatchContents | None = None
    process_facts: ProcessFacts | None = None

    @property
    def parts_ms(self) -> float:
        """What the parts of a batch come to; they are medians, `batch_ms` is a mean."""
        return self.load_ms + self.preprocess_ms + self.collate_ms + self.run_delay_ms


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory at one moment."""

    time_s: float
    rss_bytes: int
    device_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class KeptGraph:
    """Something of the user's that keeps the graphs of past steps, and gets longer with them."""

    what: str  # "list" (or dict, or deque), or "sum"
    count: int  # graphs that it kept when it was looked at last
    bytes_each: int | None  # of a kept tensor itself; its graph keeps more
    name: str | None  # of the variable or attribute; None where it could not be found out
    site: Site | None  # the line that adds to it


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Memory of the training process, of its workers and of its device."""

    peak_rss_bytes: int | None
    peak_device_bytes: int | None  # allocated
    reserved_device_bytes: int | None
    device_capacity_bytes: int | None
    workers_peak_rss_bytes: int | None
    stage_peak_bytes: dict[str, int]  # peak seen while in the stage: RSS, or device allocated where there is one
    categories_bytes: dict[str, int]  # parameters, gradients, optimizer, activations
    activations_by_module: tuple[tuple[str, int], ...]  # "layers.3.mlp (Linear)" → saved bytes, largest first
    growth_bytes_per_step: float | None  # None: no growth beyond noise, or not measured
    growth_bytes: int | None
    timeline: tuple[MemorySample, ...]
    growth_steps: int | None = None  # over which it grew: the longest stretch in which nothing of ours ran
    kept_graphs: tuple[KeptGraph, ...] = ()
    alloc_retries: int | None = None  # of the device's allocator, while the measured steps ran
    inactive_bytes: int | None = None  # free, but between parts in use of split blocks of the device: the most seen
    python_blocks_per_step: float | None = None  # by which Python's objects grew; None: not steadily, or not measured
    gradients_in_forward_bytes: int | None = None  # of the step before, still there when a step's first forward ends
    outputs_held_bytes: int | None = None  # of a step's outputs, still there when the next forward begins
    outputs_outlived_bytes: int | None = None  # and after the next step
    growth_on_device: bool = False  # it is the device's memory that grew, and not the process's
    samples_in_step: int | None = None  # first dimension of the model's inputs, summed over the looked-at step


@dataclass(frozen=True, slots=True)
class SpanFacts:
    """A stretch of the run that is not a step (startup, compile, evaluation, checkpoint) or our own cost."""

    name: str
    count: int
    total_s: float
    longest_s: float
    share_of_run: float
    site: Site | None
    intervals_s: tuple[tuple[float, float], ...]  # (start, end) since the process began; at most 200
    with_graph: float | None = None  # of evaluations: share of those whose forwards all built graphs for a backward


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """A DataLoader's arguments as the user gave them."""

    id: int
    dataset: str
    batch_size: int | None
    num_workers: int
    pin_memory: bool
    prefetch_factor: int | None
    persistent_workers: bool
    iterable: bool
    shuffle: bool | None
    length: int | None  # items
    context: str | None  # "fork", "spawn", "forkserver"
    site: Site | None
    trains: bool  # its batches were followed by backward
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RootSettings:
    """A root module: one that the user's loop calls."""

    id: int
    name: str  # class
    is_loss: bool
    parameters: int
    parameter_bytes: int
    trainable_parameters: int
    dtypes: tuple[str, ...]
    submodules: int
    compiled: bool
    site: Site | None  # the call
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """An optimizer as constructed."""

    id: int
    name: str  # class
    foreach: bool | None
    fused: bool | None
    capturable: bool | None
    tensors: int  # parameter tensors in its groups
    groups: int
    parameters: int
    site: Site | None  # the construction
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that matter, read where they passed by."""

    loaders: tuple[LoaderSettings, ...]
    roots: tuple[RootSettings, ...]
    optimizers: tuple[OptimizerSettings, ...]
    values: dict[str, Any]  # "torch_num_threads", "autocast", "compile", "ddp", "matmul_precision", …
    sites: dict[str, Site]  # where such a value was set, where known

    @property
    def training_loader(self) -> LoaderSettings | None:
        """The loader that feeds the training loop, if one was seen."""
        return next((loader for loader in self.loaders if loader.trains), None)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the run ran on."""

    cores: int  # that the process may use
    memory_bytes: int
    device: str  # "cpu" or the accelerator's name
    asynchronous: bool  # the device runs behind the host: host timers do not time it
    device_times: bool  # stage times come from the device's own clock
    idle_cores: float | None  # mean number of idle cores while the steps ran
    iowait_cores: float | None
    process_cores: float | None  # mean number of cores that the training process used
    without_core: float | None = None  # share of the time that the training thread was ready to run and had no core
    gpu: dict[str, float] = field(default_factory=dict)  # NVML means: utilization_percent, power_w, …


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What ran."""

    name: str
    command: tuple[str, ...]
    script: str | None
    torch: str | None
    python: str | None
    ranks: int
    duration_s: float
    exit_code: int | None
    signal: str | None  # "SIGKILL", where one ended it
    ended: bool  # in an orderly way
    started_unix_s: float
    other_trainings: int = 0  # further processes that trained under the same command


@dataclass(frozen=True, slots=True)
class Overhead:
    """What we cost."""

    us_per_step: float | None
    share: float | None
    events_per_step: float
    sampler_share: float | None  # of the time, by the sampler's own clock
    instrument_s: float  # labelled spans of ours, outside the medians


@dataclass(frozen=True, slots=True)
class Timeline:
    """Steps for drawing, decimated: each row stands for `steps_per_row` steps and keeps their slowest."""

    steps_per_row: int
    start_s: tuple[float, ...]  # since the first step
    wall_ms: tuple[float, ...]  # mean of the row
    max_ms: tuple[float, ...]  # the slowest step of the row
    stages_ms: dict[str, tuple[float, ...]]  # means of the row


@dataclass(frozen=True, slots=True)
class Histogram:
    """Distribution of step time: exact counts in bins."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TraceRank:
    """One rank of a job, from a trace of its own; means per step."""

    rank: int | None
    label: str  # of its file
    step_ms: float | None
    waiting_ms: float | None  # nothing but a collective ran on its device; None: not told
    own_ms: float | None  # the rest of the step
    parts_ms: dict[str, float]  # of that: "computing", "copies", "idle_<cause>"
    late_wait_ms: float | None = None  # in collectives of the whole job, until later ranks came; None: not told
    offset_ms: float | None = None  # its clock less the first rank's; None: not told
    offset_error_ms: float | None = None
    drift_ppm: float | None = None


@dataclass(frozen=True, slots=True)
class LateTraceRank:
    """The rank that the others wait for."""

    rank: int | None
    label: str
    late_ms: float  # what it needs of its own beyond the typical other rank, per step
    step_ms: float
    cause: str  # the part that is longest beyond the others', as in `TraceRank.parts_ms`
    cause_ms: float  # by how much


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """That the facts come from a trace which somebody recorded, and what of it bears on a judgement."""

    files: tuple[str, ...]
    thinned: bool  # events are missing from it, so that idle time means nothing
    kept_share: float | None  # of the host events that it numbers
    loaded_by: str | None  # "workers" or "training thread": who makes the batches that the loop waits for
    loading_operators: float | None  # share of the wait for data in which the training thread ran tensor operators
    ranks: tuple[TraceRank, ...] = ()  # where several traces were read together
    late: LateTraceRank | None = None
    clocks: Clocks | None = None  # how the ranks' clocks were brought together
    transfer_ms: float | None = None  # per step, in collectives of the whole job, on the rank that waits least
    late_wait_ms: float | None = None  # of the rank that is judged, as in `TraceRank`
    withheld: dict[str, str] = field(default_factory=dict)  # what is not said of the ranks → why
    unrecorded_device: bool = False  # an accelerator was in use, and no event of it is there
    lost: str = ""  # why events are missing, in a clause, where the file itself is damaged


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What the model computes in a step, of one process."""

    flops_per_step: float  # multiplications and additions, each as one
    tflops: float  # ÷ mean step
    number_format: str  # in which most products are computed, as far as settings tell
    peak_tflops: float | None
    peak_source: str | None  # "stated" or "measured"
    mfu: float | None  # None: no peak is known, or the step goes beyond it


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known of a run."""

    run: RunFacts
    machine: Machine
    steps: StepFacts | None  # None: no training step was seen
    stages: dict[str, StageFacts]  # only those that were measured, in the order of `vocabulary.STAGE_ORDER`
    workers: WorkerFacts | None
    memory: MemoryFacts
    spans: tuple[SpanFacts, ...]
    gc_ms_per_step: float | None
    gc_pauses: int
    settings: Settings
    overhead: Overhead
    timeline: Timeline | None
    histogram: Histogram | None
    operators: tuple[dict[str, Any], ...]  # deep window: {"name", "stage", "ms_per_step", "calls_per_step", "share"}
    not_measured: dict[str, str]  # what → why, one clause each
    notices: tuple[str, ...]  # what the reader must know: a truncated record, a hook that was switched off, …
    threads: tuple[dict[str, Any], ...] = ()  # deep window: {"role", "ms_per_step", "calls_per_step"} of host threads
    arithmetic: Arithmetic | None = None  # None: not counted
    gc_steps: int = 0  # measured steps in which garbage was collected
    root: str = ""  # folder against which the user's files are shown
    device: DeviceFacts | None = None  # None: what the device ran was not recorded
    trace: TraceFacts | None = None  # None: a run of ours
    ranks: RanksFacts | None = None  # None: one rank. The other facts are then those of the typical rank
    snapshot: SnapshotFacts | None = None  # of torch's allocator; None: none was taken
    critical_path: CriticalPath | None = None  # of a typical step; None: no trace of it was recorded
    roofline: Roofline | None = None  # None: no trace with shapes was recorded
    excerpts: tuple[StepExcerpt, ...] = ()  # a typical and a slow step in full, where a recording holds them

    def stage_ms(self, name: str) -> float:
        """Mean milliseconds of a stage per step; 0 when the stage was not measured."""
        stage = self.stages.get(name)
        return stage.mean_ms if stage else 0.0
