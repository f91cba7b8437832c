"""Questions that many rules ask of the facts before they believe them."""

from __future__ import annotations

from profiler.analysis.facts import Facts

STEPS_TO_JUDGE = 20  # measured steps below which nothing is called a warning
STEPS_TO_LOOK = 5  # measured steps below which rules of the step are not asked at all
WORTH_SHARE = 0.05  # of the step: less than this is no finding
HOST_AHEAD = 0.8  # of the device's time in forward and backward: a host that takes less queues work ahead
WORTH_MS = 0.05  # our own cost on a short step is of this order

DEVICE_STEPS_TO_JUDGE = 2  # of a trace with device events: a single step may be like no other
TRACE_STEPS_TO_JUDGE = 3  # of a trace without device events: its host's times vary from step to step

BESIDE_DEVICE = (
    "the stages are timed by the host's clock, and the device runs behind it: queued work is paid wherever the host "
    "next waits"
)
TAKEN_OUT = "host events were taken out of the trace after it was recorded"
HOST_TIMES = (
    "the device runs behind the host and its own clock was not read: these are host times, in which queued "
    "work is paid wherever the host next waits"
)


UNRECORDED = (
    "the trace shows that an accelerator was in use, but holds no event of it; record with ProfilerActivity.CUDA (or "
    "XPU) among the profiler's activities"
)


def missing(facts: Facts) -> str:
    """Why idle time means nothing in a thinned recording, in a clause."""
    return (facts.trace.lost if facts.trace is not None else "") or TAKEN_OUT


def why_host_times(facts: Facts) -> str:
    """Why host times prove nothing to a rule."""
    if facts.trace is not None and facts.trace.unrecorded_device:
        return UNRECORDED
    return HOST_TIMES if facts.device is None else BESIDE_DEVICE


def host_times(facts: Facts) -> bool:
    """Whether stage times are the host's while an asynchronous device did the work."""
    return facts.machine.asynchronous and not facts.machine.device_times


def steps_to_judge(facts: Facts) -> int:
    """Measured steps below which nothing is called a warning.

    The device's own times vary so little from step to step that two which agree tell; host times need many. Of a trace
    there are only as many steps as were recorded.
    """
    if facts.trace is None:
        return STEPS_TO_JUDGE
    return DEVICE_STEPS_TO_JUDGE if facts.device is not None else TRACE_STEPS_TO_JUDGE


def steps_to_look(facts: Facts) -> int:
    """Measured steps below which rules of the step are not asked at all."""
    return STEPS_TO_LOOK if facts.trace is None else 1


def step_ms(facts: Facts) -> float:
    """Mean step time. Waits come in bursts, so that gains are counted on means, which add up.

    Where a trace is so short that the host runs ahead of the device through all of it, a step takes what the device
    takes for one.
    """
    return _step(facts)[0]


def worth(facts: Facts, saves_ms: float) -> bool:
    """Whether saving this much per step is more than a trifle and more than the noise of this run."""
    whole_ms, noise_ms = _step(facts)
    return saves_ms >= max(WORTH_SHARE * whole_ms, WORTH_MS, noise_ms)


def _step(facts: Facts) -> tuple[float, float]:
    """Mean step time, and how sure that is."""
    steps, device = facts.steps, facts.device
    if steps is None:
        return 0.0, 0.0
    if facts.trace is not None and device is not None and (device.pace_ms or 0.0) > steps.mean_ms:
        return device.pace_ms or 0.0, device.pace_noise_ms or 0.0
    return steps.mean_ms, steps.noise_ms


def share(facts: Facts, *stages: str) -> float:
    """Share of the mean step in these stages together, of those that were measured."""
    return sum(facts.stages[name].share for name in stages if name in facts.stages)


def arithmetic_share(facts: Facts) -> float:
    """Share of the step in the model's arithmetic: the optimizer counts while it stays the smaller part.

    On an accelerator a stage holds what the device idles in it, so that there no more counts than the device was
    busy; where that was not seen, nothing counts unless the host was ahead, which tells that the device set the pace.
    """
    if facts.machine.asynchronous and facts.machine.device_times:
        busy = facts.device.steps_busy_share if facts.device is not None else None
        if busy is not None:
            return min(busy, _stages_share(facts))
        if not host_is_ahead(facts):
            return 0.0
    return _stages_share(facts)


def host_is_ahead(facts: Facts) -> bool:
    """Whether the host was done with forward and backward well before the device was."""
    stages = [facts.stages[name] for name in ("forward", "backward") if name in facts.stages]
    host_ms = sum(stage.host_ms or 0.0 for stage in stages)
    known = bool(stages) and all(stage.host_ms is not None for stage in stages)
    return known and host_ms <= HOST_AHEAD * sum(stage.mean_ms for stage in stages)


def _stages_share(facts: Facts) -> float:
    model = share(facts, "forward", "backward")
    optimizer = share(facts, "optimizer")
    return model + optimizer if optimizer <= model / 2 else model


def share_of_run(facts: Facts) -> float | None:
    """Share of the run's duration that all its steps took; None where it can't be told."""
    if facts.steps is None or facts.run.duration_s <= 0:
        return None
    return min(1.0, facts.steps.count * facts.steps.mean_ms / 1000 / facts.run.duration_s)
