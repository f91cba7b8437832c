"""Questions that rules ask of the device's own clock.

In:  facts. Out: `PerStep`, what the device did in one step of the run, or why that is not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from profiler.analysis.device_facts import DeviceFacts, DeviceStep, StepSums, sums_of
from profiler.analysis.facts import Facts, LineTime
from profiler.analysis.merged_lines import by_line
from profiler.analysis.site import Site
from profiler.analysis.source_lines import TO_NUMBER
from profiler.rules.base import Outcome, Rule
from profiler.rules.evidence import step_ms

NOT_READ = "what the device ran was not recorded"
NO_STEPS = "the recording of the device marks no steps"
THINNED = "events are missing from the recording, so that idle time means nothing"
PRODUCTS = ("gemm", "convolution", "attention")  # families of kernels that compute …
FUSES = ("elementwise", "reduction", "normalization")  # … and that mostly move memory: a compiler fuses them
BEHIND_SHARE = 0.25  # of the step: a launch that waits longer waits for the device, not for the host
NO_IDLE_SHARE = 0.05  # of the step: with less idle time the device sets the pace
TO_DEVICE = r"\.to\((?!\s*['\"]cpu)|\.cuda\("
_REBOUND = re.compile(r"\s*(\w+)\b[^=]*=.*?\b\1\.(to|cuda)\(")  # a name that is bound to its own copy
LEAST_PAGEABLE = 0.01  # share of the step in pageable copies, from which they are worth a word
LINE_SAMPLES = 8  # below which a sampled line says nothing

ITEM_LINES = TO_NUMBER
TO_HOST_LINES = r"\.cpu\(|\.numpy\(|\.to\(\s*['\"]cpu"
SHAPE_LINES = (
    r"nonzero\(|masked_select\(|(?<!=)[\w)\]]\[(?!\s*['\"])[^\]=]*mask|\.unique\(|repeat_interleave\(|argwhere\("
)
SYNCHRONIZE_LINES = r"\bsynchronize\("
_WAITING = re.compile(  # what runs at a line that waits
    r"$|torch\.(cuda\.(synchronize|streams)|_tensor\.|functional\._|accelerator\.|_jit_internal)"
)
WAITING_LINES = (r"\.item\(|\.tolist\(", TO_HOST_LINES, SHAPE_LINES, SYNCHRONIZE_LINES)  # where the host waits


@dataclass(frozen=True, slots=True)
class PerStep:
    """The device in one step of the run; milliseconds."""

    steps: int  # behind the figures
    step_ms: float
    busy_ms: float
    idle_ms: dict[str, float] | None  # by cause; None: means nothing here
    waited_ms: float  # the host was blocked while the device worked
    starved_ms: float  # the host was blocked while the device had nothing to do
    copies_alone_ms: float  # copies between host and device while no kernel ran
    families_ms: dict[str, float]  # kernels of each family; of two at once, on two streams, one counts
    behind: bool  # the device is behind the host by much of a step, or hardly ever idle

    @property
    def idle_share(self) -> float:
        """Of the step; 0 where idle time means nothing."""
        return sum(self.idle_ms.values()) / self.step_ms if self.idle_ms and self.step_ms else 0.0

    def idle_by(self, *causes: str) -> float:
        """Idle milliseconds from these causes; 0 where idle time means nothing."""
        return sum((self.idle_ms or {}).get(cause, 0.0) for cause in causes)

    def running(self, *families: str) -> float:
        """Milliseconds in kernels of these families."""
        return min(sum(self.families_ms.get(family, 0.0) for family in families), self.busy_ms)

    def shortens(self, saves_ms: float) -> float:
        """By how much the step gets shorter where the device has so much less to do.

        Where the host sets the pace, only by what it waits for the device.
        """
        return min(saves_ms, self.busy_ms) if self.behind else min(saves_ms, self.waited_ms)


def judged_steps(facts: Facts, device: DeviceFacts) -> tuple[DeviceStep, ...]:
    """The recorded steps by which a training is judged: of a trace, those that are like each other."""
    return device.steps if facts.trace is None else device.usual_steps


def per_step(facts: Facts) -> PerStep | str:
    """The device's figures for one step, or why there are none.

    Recording slows the host but not the device: busy time is taken as recorded, and idle time is what the step of
    the run leaves beside it, divided among its causes as recorded. Of a live run, what the device's clock says of the
    wait for data and the sampler of lines that wait for the device goes before that.
    """
    device = facts.device
    if device is None:
        return NOT_READ
    if not device.steps:
        return NO_STEPS
    judged, steps = judged_steps(facts, device), len(device.steps)
    sums = device.usual_sums if judged is device.usual_steps else sums_of(judged)
    whole = step_ms(facts) if len(judged) == steps else sums.wall_ms / len(judged)
    if whole <= 0:
        return "no step of the run was measured"
    busy_ms = min(whole, sums.busy_ms / len(judged))
    idle_ms = _idle(device, sums, whole - busy_ms)
    if idle_ms is not None and facts.trace is None and facts.machine.device_times:
        idle_ms = _as_in_the_run(facts, idle_ms)
    delay_ms = (device.launch_delay_us or 0.0) / 1000
    hardly_idle = idle_ms is not None and sum(idle_ms.values()) < NO_IDLE_SHARE * whole
    return PerStep(
        steps=steps,
        step_ms=whole,
        busy_ms=busy_ms,
        idle_ms=idle_ms,
        waited_ms=_waits(sums.waited_ms, len(judged), max(0.0, device.sync_ms - device.sync_starved_ms) / steps),
        starved_ms=_waits(sums.starved_ms, len(judged), device.sync_starved_ms / steps),
        copies_alone_ms=sums.exposed_copies_ms / len(judged),
        families_ms=_families(device, sums, len(judged)),
        behind=delay_ms >= BEHIND_SHARE * whole or hardly_idle,
    )


def _families(device: DeviceFacts, sums: StepSums, steps: int) -> dict[str, float]:
    if sums.families_ms:
        return {family: ms / steps for family, ms in sums.families_ms.items()}
    return {family.family: family.ms / len(device.steps) for family in device.families}


def _waits(total_ms: float | None, steps: int, otherwise_ms: float) -> float:
    """Mean over the steps, or what of the whole recording falls to one of them, where it is not known by step."""
    return otherwise_ms if total_ms is None else total_ms / steps


def _idle(device: DeviceFacts, steps: StepSums, left_ms: float) -> dict[str, float] | None:
    if device.idle_ms is None or device.thinned:
        return None
    causes = steps.idle_ms or device.idle_ms
    total = sum(causes.values())
    return {cause: ms / total * left_ms for cause, ms in causes.items()} if total > 0 else {}


def _as_in_the_run(facts: Facts, idle_ms: dict[str, float]) -> dict[str, float]:
    """What a slow host hid in a few recorded steps: waits for batches, and leads lost while waiting for the device."""
    left, found = sum(idle_ms.values()), dict(idle_ms)
    for cause, seen_ms in (("data_wait", idle_in(facts, "data_wait")), ("sync", waiting_ms(facts))):
        more = min(max(0.0, seen_ms - found.get(cause, 0.0)), left)
        for other in ("host", "unknown"):
            moved = min(more, found.get(other, 0.0))
            if moved > 0:
                found[other] -= moved
                found[cause] = found.get(cause, 0.0) + moved
                more -= moved
    return found


def waiting_ms(facts: Facts) -> float:
    """Milliseconds a step at the user's lines that return only once the device has caught up, as sampled.

    0 where no such wait was recorded.
    """
    if facts.device is None or not facts.device.syncs:
        return 0.0
    return sum(lost_ms for _, lost_ms in waiting_lines(facts, "|".join(WAITING_LINES)))


def waiting_lines(facts: Facts, pattern: str) -> list[tuple[LineTime, float]]:
    """Lines whose text matches, as far as they did nothing but wait, and what the device lost there at the most.

    That is no more than the line took, and than the device was idle in the line's stage. Longest first; only lines
    with samples enough to count.
    """
    found = []
    for stage in facts.stages.values():
        if stage.name in ("data_wait", "host_to_device"):
            continue
        left_ms = idle_in(facts, stage.name)
        own = (it for it in stage.lines if re.search(pattern, it.source.split("#", 1)[0]) and _WAITING.match(it.leaf))
        for line in by_line(own):
            if line.told_by(LINE_SAMPLES):
                lost_ms = min(line.ms_per_step, left_ms)
                left_ms -= lost_ms
                found.append((line, lost_ms))
    return sorted(found, key=lambda each: -each[1])


def idle_in(facts: Facts, name: str) -> float:
    """Milliseconds of a step that the device spends in a stage without running anything launched there.

    By its own clock; 0 where that was not read.
    """
    stage, device = facts.stages.get(name), facts.device
    if stage is None or device is None or not facts.machine.device_times:
        return 0.0
    return max(0.0, stage.mean_ms - device.stages_ms.get(name, 0.0))


def let_go(facts: Facts) -> LineTime | None:
    """The line that copies a pageable batch, as far as it takes time outside of the copy: the last batch is freed."""
    other, device, loader = facts.stages.get("other"), facts.device, facts.settings.training_loader
    if facts.trace is not None or other is None or device is None or (loader is not None and loader.pin_memory):
        return None
    copies = device.copies_of_steps.get("h2d_pageable")
    if copies is None or copies.ms < LEAST_PAGEABLE * step_ms(facts) * len(device.steps):
        return None
    own = by_line(it for it in other.lines if not it.leaf and _REBOUND.match(it.source))
    return next((line for line in own if line.told_by(LINE_SAMPLES)), None)


class DeviceRule(Rule):
    """Base of rules that read the device's clock; no rule itself. Subclasses override `judge`."""

    needs_device_times = False  # the device's facts are its own times

    def check(self, facts: Facts) -> Outcome:
        """Judge, where there is an accelerator and its clock was read."""
        if facts.device is None and not facts.machine.asynchronous:
            return None
        step = per_step(facts)
        if isinstance(step, str):
            return self.abstain(step)
        device = facts.device
        return self.judge(facts, device, step) if device is not None else None

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge the facts."""
        raise NotImplementedError


def sampled(facts: Facts, pattern: str, *, leaf: str = r"(?!)") -> LineTime | None:
    """The costliest sampled line whose text, or a function that ran there, matches; with all that ran there."""
    found = []
    for stage in facts.stages.values():
        chosen = {
            (line.site.file, line.site.line)
            for line in stage.lines
            if re.search(pattern, line.source.split("#", 1)[0]) or re.search(leaf, line.leaf)
        }
        found += [line for line in by_line(stage.lines) if (line.site.file, line.site.line) in chosen]
    return max(found, key=lambda line: line.ms_per_step, default=None)


def site_of(facts: Facts, seen: Site | None, pattern: str) -> Site | None:
    """The user's line: as the recording has it, else where the sampler saw such a line."""
    if seen is not None:
        return seen
    line = sampled(facts, pattern)
    return line.site if line else None


GENERATIONS = (  # by the device's name, and by how its libraries name kernels
    ("hopper or newer", r"\b(H100|H200|H800|GH200|B100|B200|GB200|RTX 50\d\d)", r"sm90|sm100|hopper"),
    ("ampere", r"\b(A100|A30|A40|A10G?|A800|A\d000|L4|L40S?|RTX 30\d\d|RTX 40\d\d)\b", r"sm8\d|ampere"),
    ("turing", r"\b(T4|RTX 20\d\d|TITAN RTX|Quadro RTX)\b", r"turing|sm75"),
    ("volta", r"\b(V100|TITAN V)\b", r"volta"),
)


def generation(facts: Facts) -> str | None:
    """NVIDIA's generation of the device, from Volta on; None where neither its name nor its kernels tell."""
    device = facts.device
    names = (device.name if device else None) or facts.machine.device
    for word, name, _ in GENERATIONS:
        if re.search(name, names):
            return word
    for word, _, kernel in GENERATIONS:
        if device is not None and any(re.search(kernel, it.name) for it in device.kernels):
            return word
    return None


def has_tf32(facts: Facts) -> bool:
    """Whether the device can multiply float32 as TF32."""
    return generation(facts) in ("ampere", "hopper or newer")
