"""What the device did: the part of `Facts` that comes from its own clock.

Of a trace that somebody recorded, or of the deep window of a live run. Times are milliseconds; `None` means *not
measured*. Unless a name says "per step", a figure is over the whole span, from the first to the last event on host
or device; streams are united, so that two kernels at once count once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from profiler.analysis.site import Site

IDLE_CAUSES = ("host", "sync", "data_wait", "copy", "communication", "unknown")
COPY_KINDS = ("h2d_pageable", "h2d_pinned", "h2d", "d2h", "d2d")  # "h2d": not said whether pageable or pinned
FAMILIES = (
    "gemm",
    "attention",
    "convolution",
    "normalization",
    "elementwise",
    "reduction",
    "embedding",
    "optimizer",
    "copy",
    "collective",
    "other",
)


STEPS_TO_COMPARE = 3  # of fewer none is unlike the others
ODD_SHARE = 0.10  # of the median step that an odd one loses beyond the others, at the least
ODD_TIMES = 3.0  # and as many times as much as they do
ODD_AMONG = 8  # steps in which one may be odd: what comes more often is the training's
ODD_BUSY = 0.5  # of all busy time: a step with more holds the work of others that the host launched ahead


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """Copies of one kind, on the device's clock."""

    count: int
    ms: float
    bytes: int | None  # None: the recording does not say
    site: Site | None = None  # the user's line that asked for most of them, where stacks were recorded


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """One kernel, or one family of kernels."""

    name: str
    family: str
    stage: str  # in which its launch lay; "" where that is not known, or for a family over all stages
    count: int
    ms: float  # summed durations
    tensor_cores: bool | None  # None: its name does not tell
    operator: str = ""  # the innermost host operator that launched it
    site: Site | None = None  # the user's line, where stacks were recorded


@dataclass(frozen=True, slots=True)
class CollectiveFacts:
    """Collectives of one kind."""

    name: str  # "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv", …
    count: int
    ms: float  # union of their kernels
    exposed_ms: float  # of it, while no other kernel ran
    bytes: int | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class SyncCall:
    """Host calls of one kind that return only once the device has caught up."""

    name: str  # "cudaStreamSynchronize", "cudaMemcpyAsync", …
    operator: str  # the outermost host operator around it, e.g. "aten::item"; "" for none
    stage: str
    count: int
    ms: float
    starved_ms: float  # of it, while the device had nothing to do, nor anything in its queue
    site: Site | None = None
    lost_ms: float = 0.0  # that, and after it: the device waits for work that the host could not launch meanwhile
    held_ms: float = 0.0  # the host in the operators around, or in the calls where there is none


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """The device within one step as the host cut it; where the device lags, in a step of its own (`pace_ms`)."""

    index: int
    wall_ms: float
    busy_ms: float
    idle_ms: dict[str, float] = field(default_factory=dict)  # by cause, as IDLE_CAUSES
    computing_ms: float = 0.0  # union of kernels other than collectives
    exposed_collectives_ms: float = 0.0  # collectives while no other kernel ran
    exposed_copies_ms: float = 0.0  # copies between host and device while no kernel ran
    waited_ms: float | None = None  # the host was blocked until the device caught up, while the device worked
    starved_ms: float | None = None  # the same, while the device had nothing to do, nor anything in its queue
    start_up_ms: float = 0.0  # the device idle in single long calls: loading code, allocating, making streams
    families_ms: dict[str, float] = field(default_factory=dict)  # union of each family's kernels; {}: not by step

    @property
    def lost_ms(self) -> float:
        """In which the device did not compute: idle, or nothing but exchanging and copying."""
        return sum(self.idle_ms.values()) + self.exposed_collectives_ms + self.exposed_copies_ms


@dataclass(frozen=True, slots=True)
class StepSums:
    """Steps taken together. Milliseconds."""

    wall_ms: float
    busy_ms: float
    exposed_copies_ms: float
    waited_ms: float | None  # None: not known of each step
    starved_ms: float | None
    idle_ms: dict[str, float]  # by cause
    families_ms: dict[str, float]


def sums_of(steps: tuple[DeviceStep, ...]) -> StepSums:
    """Their sums."""
    return StepSums(
        wall_ms=sum(step.wall_ms for step in steps),
        busy_ms=sum(step.busy_ms for step in steps),
        exposed_copies_ms=sum(step.exposed_copies_ms for step in steps),
        waited_ms=_sum_of_known([step.waited_ms for step in steps]),
        starved_ms=_sum_of_known([step.starved_ms for step in steps]),
        idle_ms=_sums([step.idle_ms for step in steps]),
        families_ms=_sums([step.families_ms for step in steps]),
    )


def _sums(each: list[dict[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for values in each:
        for name, ms in values.items():
            found[name] = found.get(name, 0.0) + ms
    return found


def _sum_of_known(values: list[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


@dataclass(frozen=True)  # no slots: what all rules ask of the steps is kept once found
class DeviceFacts:
    """The device's side of the run."""

    name: str | None
    source: str  # "trace" or "window"
    span_ms: float
    busy_ms: float  # union of kernels, copies and memsets; a collective's kernel counts as busy
    steps_busy_share: float | None  # busy ÷ wall, first step start … last step end (its own steps, where it lags)
    kernel_count: int
    kernel_ms: float  # union of kernels
    kernel_sum_ms: float  # sum of their durations
    tensor_core_share: float | None  # of kernel_sum_ms; None: the kernels' names don't tell
    copies: dict[str, CopyFacts]
    collectives_ms: float  # union of collectives
    collectives_exposed_ms: float  # of it, while no other kernel ran
    collectives: tuple[CollectiveFacts, ...]  # by kind, largest exposed first
    idle_ms: dict[str, float] | None  # by cause; None: idle time means nothing here (a thinned recording)
    sync_ms: float  # host blocked until the device caught up
    sync_starved_ms: float  # of it, while the device ran nothing
    syncs: tuple[SyncCall, ...]  # largest first; of the steps, where they are known
    stages_ms: dict[str, float]  # summed kernel, copy and memset time per step, by the stage of the launch
    families: tuple[KernelFacts, ...]  # kernels by family, largest first; like the next of the steps
    kernels: tuple[KernelFacts, ...]  # by name and stage, largest first; at most 60
    launch_delay_us: float | None  # median from the end of a launch to the start of its work
    queue_depth: float | None  # median number of launched, unfinished pieces of work at a launch
    steps: tuple[DeviceStep, ...]  # without start-up
    flops_per_step: float | None = None  # of the model, counted
    mfu: float | None = None  # flops ÷ step time ÷ peak
    peak_tflops: float | None = None
    memory_timeline: tuple[tuple[float, int], ...] = ()  # (ms since the span began, allocated bytes)
    thinned: bool = False  # events are missing from the recording
    step_copies: dict[str, CopyFacts] | None = None  # of the steps; None: as `copies`
    pace_ms: float | None = None  # mean step of a device that ends the steps' work well after the host left them
    pace_noise_ms: float | None = None  # of it, half width of the 95 % interval of the median
    driver_memory_ms: float | None = None  # per step: the host in the driver's calls that take memory

    @property
    def copies_of_steps(self) -> dict[str, CopyFacts]:
        """Copies that stand for the steps."""
        return self.copies if self.step_copies is None else self.step_copies

    @cached_property
    def odd_steps(self) -> tuple[DeviceStep, ...]:
        """Steps that lost much more than the others: a pipeline that fills, a checkpoint. None where they recur."""
        if len(self.steps) < STEPS_TO_COMPARE:
            return ()
        usual = median(step.lost_ms for step in self.steps)
        least = max(usual + ODD_SHARE * median(step.wall_ms for step in self.steps), ODD_TIMES * usual)
        odd = tuple(step for step in self.steps if step.lost_ms > least)
        busy_ms = sum(step.busy_ms for step in self.steps)
        recurs = len(odd) > max(1, len(self.steps) // ODD_AMONG)
        return () if recurs or sum(step.busy_ms for step in odd) > ODD_BUSY * busy_ms else odd

    @cached_property
    def usual_steps(self) -> tuple[DeviceStep, ...]:
        """Steps that stand for the training."""
        odd = {step.index for step in self.odd_steps}
        return tuple(step for step in self.steps if step.index not in odd)

    @cached_property
    def usual_sums(self) -> StepSums:
        """Those of the steps that stand for the training."""
        return sums_of(self.usual_steps)

    @property
    def busy_share(self) -> float:
        """Of the span."""
        return self.busy_ms / self.span_ms if self.span_ms else 0.0
