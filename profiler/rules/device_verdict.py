"""What holds the step back, by the device's own clock.

In:  facts whose device was recorded.
Out: `Part`s: the time of a step in which the device did not compute, by what it waited for; or why that can't be told.

The device is what a training pays for, so that time counts by what the device lost in it and not by where the host's
thread stood: a wait for a device that is busy is the device's time, and so is host time beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.device_facts import DeviceFacts, DeviceStep
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck
from profiler.rules.device import NOT_READ, PerStep, judged_steps, per_step
from profiler.rules.evidence import missing, step_ms
from profiler.rules.late import late_in
from profiler.rules.phrases import ms, percent

WORTH_NAMING = 0.10  # share of the step that a part must take to be the bottleneck
HOST_WORTH_NAMING = 0.20  # recording slows the host: of less than this, that alone may be the cause …
MOSTLY_BUSY = 0.75  # … on a device that works for at least so much of the step
EXPOSED_WHEN_THINNED = 0.20  # what hid a collective may have been taken out, so that less tells nothing
START_UP_SHARE = 0.10  # of a single step in loading code and allocating, from which that is worth saying
OPERATORS_SHARE = 0.25  # of the wait for data in tensor operators, from which preprocessing is what takes it


@dataclass(frozen=True, slots=True)
class Part:
    """Time of a step that the device lost."""

    word: Bottleneck
    ms: float  # per step
    share: float  # of the step
    least: float  # share from which it is worth naming
    sentence: str


def parts(facts: Facts) -> tuple[Part, ...] | str:
    """What the device lost, largest first; or why that can't be told."""
    device = facts.device
    if device is None:
        return NOT_READ
    step = per_step(facts)
    if isinstance(step, str):
        return step
    if facts.trace is not None and facts.trace.lost:  # of a damaged file even kernels are gone
        return f"{missing(facts)}, so that idle time means nothing"
    too_little = _too_little(facts, device)
    if too_little:
        return too_little
    if device.thinned or step.idle_ms is None:
        return _thinned(facts, device, step)
    judged = judged_steps(facts, device)
    found = [
        _communication(facts, device, judged, step),
        _host(facts, step),
        _waits(step),
        _copies(device, judged, step),
        _data(facts, step),
    ]
    return tuple(sorted(found, key=lambda part: -part.share))


def leading(found: tuple[Part, ...]) -> Part | None:
    """The largest part that is worth naming."""
    return next((part for part in found if part.share >= part.least), None)


def busy_share(facts: Facts) -> float:
    """Share of the step in which the device worked; 0 where that is not known."""
    step = per_step(facts)
    return 0.0 if isinstance(step, str) or step.step_ms <= 0 else step.busy_ms / step.step_ms


def updating_share(facts: Facts) -> float:
    """Share of the step in which the device ran what the update launched; 0 where that is not known."""
    whole = judged_ms(facts)
    took = facts.device.stages_ms.get("optimizer", 0.0) if facts.device is not None else 0.0
    return took / whole if whole > 0 else 0.0


def judged_ms(facts: Facts) -> float:
    """Mean of the steps by which the training is judged."""
    step = per_step(facts)
    return step_ms(facts) if isinstance(step, str) else step.step_ms


def _too_little(facts: Facts, device: DeviceFacts) -> str | None:
    """Steps in which nothing ran are none, and a single one tells nothing of others."""
    if facts.trace is None:
        return None
    real = [step for step in device.steps if step.busy_ms > 0]
    if not real:
        return "the device did nothing within the steps"
    if len(real) == 1:
        alone = "the device worked in one step alone, which may be like no other"
        start_up = real[0].start_up_ms
        if start_up <= START_UP_SHARE * real[0].wall_ms:
            return alone
        return f"{alone}: {ms(start_up)} of its {ms(real[0].wall_ms)} went into loading code and allocating"
    return None


def _per_step(steps: tuple[DeviceStep, ...], name: str) -> float:
    """Mean over the steps."""
    return sum(float(getattr(step, name)) for step in steps) / len(steps)


def _part(word: Bottleneck, lost_ms: float, step: PerStep, sentence: str, least: float = WORTH_NAMING) -> Part:
    return Part(word, lost_ms, lost_ms / step.step_ms, least, sentence)


def _idle(step: PerStep, lost_ms: float) -> str:
    share = percent(lost_ms / step.step_ms)
    return f"the device stands idle for {ms(lost_ms)} ({share}) of each {ms(step.step_ms)} step"


def _communication(facts: Facts, device: DeviceFacts, judged: tuple[DeviceStep, ...], step: PerStep) -> Part:
    exposed = min(_per_step(judged, "exposed_collectives_ms"), step.step_ms)
    hosts = step.idle_by("communication")
    lost = exposed + hosts
    if hosts > exposed:
        sentence = f"{_idle(step, lost)} while hosts exchange data among themselves"
    else:
        kinds = [kind.name.replace("_", "-") for kind in device.collectives[:1] if kind.exposed_ms > 0]
        most = f", most of it {kinds[0]}" if kinds and len(device.collectives) > 1 else ""
        sentence = (
            f"for {ms(lost)} ({percent(lost / step.step_ms)}) of each {ms(step.step_ms)} step the device does nothing "
            f"but exchange data{most}; {_of_late_ranks(facts)}"
        )
    return _part(Bottleneck.COMMUNICATION, lost, step, sentence)


def _of_late_ranks(facts: Facts) -> str:
    late_ms = facts.trace.late_wait_ms if facts.trace is not None else None
    if late_ms is None:
        return "a rank that comes late looks the same from here"
    if not late_ms:
        return "none of it is spent waiting for ranks that come later"
    return f"collectives hold it for {ms(late_ms)} a step until later ranks come"


def _host(facts: Facts, step: PerStep) -> Part:
    lost = step.idle_by("host")
    sentence = f"{_idle(step, lost)} because the host launches its work too late"
    late = late_in(facts, step)
    if late is not None and late.stage in _WHILE:
        sentence += f", at least {ms(late.least_ms)} of that {_WHILE[late.stage]}"
    mostly_busy = step.busy_ms >= MOSTLY_BUSY * step.step_ms
    return _part(Bottleneck.HOST_OVERHEAD, lost, step, sentence, HOST_WORTH_NAMING if mostly_busy else WORTH_NAMING)


_WHILE = {
    "data_wait": "while the loop waits for its batch",
    "host_to_device": "while it copies the batch",
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "communication": "while it exchanges data",
    "optimizer": "in the optimizer's update",
}


def _waits(step: PerStep) -> Part:
    lost = step.idle_by("sync")
    sentence = f"{_idle(step, lost)} because the host waited for its results and lost its lead"
    return _part(Bottleneck.SYNCHRONIZATION, lost, step, sentence)


def _copies(device: DeviceFacts, judged: tuple[DeviceStep, ...], step: PerStep) -> Part:
    exposed = _per_step(judged, "exposed_copies_ms")
    lost = exposed + step.idle_by("copy")
    took = {way: sum(it.ms for kind, it in device.copies_of_steps.items() if kind[:3] == way) for way in ("h2d", "d2h")}
    back, between = took["d2h"] > took["h2d"], "is copied between host and device"
    if not min(took.values()):
        between = "is copied back to the host" if back else "is copied to the device"
    sentence = (
        f"for {ms(lost)} ({percent(lost / step.step_ms)}) of each {ms(step.step_ms)} step the device computes nothing "
        f"while data {between}"
    )
    return _part(Bottleneck.OTHER if back else Bottleneck.HOST_TO_DEVICE, lost, step, sentence)


def _data(facts: Facts, step: PerStep) -> Part:
    lost = step.idle_by("data_wait")
    word, what = of_loading(facts)
    return _part(word, lost, step, f"{_idle(step, lost)} because the loop waits for its batch{what}")


def of_loading(facts: Facts) -> tuple[Bottleneck, str]:
    """Whether storage or the CPU holds the batches up, as far as can be told."""
    workers, trace = facts.workers, facts.trace
    if workers is not None:
        if workers.load_ms > workers.preprocess_ms + workers.collate_ms:
            return Bottleneck.DATA_LOADING, f", which is blocked on storage or network for {ms(workers.load_ms)}"
        return Bottleneck.DATA_PREPROCESSING, f", which takes {ms(workers.batch_ms)} to make"
    if trace is None or trace.loaded_by is None:
        return Bottleneck.DATA_LOADING, ""
    if trace.loaded_by == "workers":
        return Bottleneck.DATA_LOADING, "; what holds its workers up is not in a trace"
    share = trace.loading_operators or 0.0
    if share >= OPERATORS_SHARE:
        return (
            Bottleneck.DATA_PREPROCESSING,
            f", which the training thread makes itself, {percent(share)} of that time in tensor operators",
        )
    return (
        Bottleneck.DATA_LOADING,
        ", which the training thread makes itself; whether storage is slow is not in a trace",
    )


def straggler(facts: Facts) -> tuple[float, str] | None:
    """The share of the step that the ranks wait for one of them, and that in a sentence; None where they don't."""
    late = facts.trace.late if facts.trace is not None else None
    if late is None:
        return None
    name = f"rank {late.rank}" if late.rank is not None else late.label
    share = late.late_ms / late.step_ms
    return share, (
        f"the other ranks wait in their collectives for {name}, which comes {ms(late.late_ms)} ({percent(share)} of "
        f"each {ms(late.step_ms)} step) later: {late_by(late.cause)}, "
        f"by {ms(late.cause_ms)}"
    )


_LATE_BY = {
    "computing": "its device computes longer",
    "copies": "its copies between host and device take longer",
    "idle_data_wait": "its device waits longer for batches",
    "idle_host": "its host launches work later",
    "idle_sync": "its host waits longer for its device",
    "idle_copy": "its host is held up longer by copies",
}


def late_by(cause: str) -> str:
    """What a rank does longer than the others, in a clause."""
    return _LATE_BY.get(cause, "its device stands idle longer")


def _thinned(facts: Facts, device: DeviceFacts, step: PerStep) -> tuple[Part, ...] | str:
    """Idle time means nothing, and what hid a collective may be gone: only much of it tells."""
    part = _communication(facts, device, judged_steps(facts, device), step)
    if part.share < EXPOSED_WHEN_THINNED:
        return f"{missing(facts)}, so that idle time means nothing"
    sentence = (
        f"for up to {ms(part.ms)} ({percent(part.share)}) of each {ms(step.step_ms)} step the device does nothing but "
        "exchange data; what ran beside that may have been taken out of the trace, and a late rank looks the same"
    )
    return (Part(part.word, part.ms, part.share, EXPOSED_WHEN_THINNED, sentence),)
