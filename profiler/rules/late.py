"""Where the host launches its work too late.

In:  facts and the device's figures for one step. Out: the stage in which most of that lies, where it can be told.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.facts import Facts
from profiler.rules.device import PerStep, idle_in
from profiler.rules.evidence import step_ms

_LAUNCH = ("forward", "backward", "optimizer")  # stages in which the host can be late
LEAST_SHARE = 0.1  # of the step that must be idle in a stage for it to be named
MOSTLY = 0.5  # of the idle time that must lie in one stage
AGREE = 0.1  # by which the step that is judged may differ from the one that the stages are of


@dataclass(frozen=True, slots=True)
class LateIn:
    """A stage, and the idle time for late launches that lies in it."""

    stage: str
    least_ms: float  # per step: the rest of it fits into the host's time outside of the stage


def late_in(facts: Facts, step: PerStep) -> LateIn | None:
    """The stage of the host in which most late launches lie; None where none holds most of them for certain.

    Of a live run the device's own clock says where it stood idle. Else it is reckoned by the host's:
    Launches are late while the host is somewhere: outside of a stage it can't have been for longer than the step less
    the stage, and what of the idle time goes beyond that lies within it.
    """
    starved, whole = step.idle_by("host"), step_ms(facts)
    if starved > 0 and (timed := _by_the_device(facts, step, starved)) is not None:
        return timed
    if starved <= 0 or facts.steps is None or abs(step.step_ms - facts.steps.mean_ms) > AGREE * step.step_ms:
        return None
    for name, stage in facts.stages.items():
        host_ms = stage.mean_ms if facts.trace is not None else stage.host_ms
        if host_ms is None or name == "other":  # outside of every stage, which says nothing
            continue
        least = min(starved, starved - (whole - host_ms))
        if least >= MOSTLY * starved:
            return LateIn(name, least)
    return None


def _by_the_device(facts: Facts, step: PerStep, starved: float) -> LateIn | None:
    """The stage with most idle time by the device's own clock: its time there, less all that was launched in it."""
    device = facts.device
    if facts.trace is not None or not facts.machine.device_times or device is None or not device.stages_ms:
        return None
    idle = {name: idle_in(facts, name) - step.idle_by("sync", "copy", "communication", "unknown") for name in _LAUNCH}
    name = max(idle, key=lambda each: idle[each], default="")
    if not name or idle[name] < max(MOSTLY * starved, LEAST_SHARE * step.step_ms):
        return None
    return LateIn(name, min(starved, idle[name]))
