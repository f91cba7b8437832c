"""sync/item, copy-to-host, data-dependent-shape and explicit-synchronize: calls that wait for the device."""

from __future__ import annotations

import re
from typing import ClassVar

from profiler.analysis.device_facts import DeviceFacts, SyncCall
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import (
    ITEM_LINES,
    SHAPE_LINES,
    SYNCHRONIZE_LINES,
    THINNED,
    TO_HOST_LINES,
    DeviceRule,
    PerStep,
    site_of,
    waiting_lines,
)
from profiler.rules.evidence import worth
from profiler.rules.phrases import about, ms, percent, place

ITEM = ("aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::allclose")
SHAPES = (
    "aten::nonzero",
    "aten::nonzero_numpy",
    "aten::argwhere",
    "aten::masked_select",
    "aten::index",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::where",
    "aten::repeat_interleave",
    "aten::bincount",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
)
COPIES = ("aten::to", "aten::_to_copy", "aten::copy_", "aten::cpu")
LINE_KEPT = 0.8  # of what a line's end promises, at least: seen on an H200, 0.87 to 0.92
_ALL = r"(?i)(device|stream|event|context)synchronize"


def to_the_device(call: SyncCall, device: DeviceFacts) -> bool:
    """Whether a copy that waited went to the device, by its stage and by which copies there were."""
    if call.stage in ("host_to_device", "data_wait"):
        return True
    return "d2h" not in device.copies and any(kind.startswith("h2d") for kind in device.copies)


class _SyncRule(DeviceRule):
    """What the rules of one kind of call share; no rule itself."""

    bottleneck = Bottleneck.SYNCHRONIZATION
    does: ClassVar[str]  # completes "the host waits for the device … "
    pattern: ClassVar[str]  # of the user's line
    summary: ClassVar[str]
    code: ClassVar[str]

    def _judge(self, facts: Facts, step: PerStep, calls: list[SyncCall], threshold: Threshold) -> Outcome:
        """The gain is what the device starved: waiting while it works costs nothing."""
        if not calls:
            return None
        if step.idle_ms is None:
            return self.abstain(THINNED)
        waited = sum(call.ms for call in calls) / step.steps
        starved = sum(call.starved_ms for call in calls) / step.steps
        part = _part(calls, facts)
        lost = min(max(starved, part * step.idle_by("sync")), sum(step.idle_ms.values()))
        saves_low = min(starved, lost)
        in_the_run = False
        lines = waiting_lines(facts, self.pattern) if facts.trace is None else []
        line = lines[0][0] if lines else None
        if line is not None:
            ends = min(sum(lost for _, lost in lines), step.idle_by("sync", "host", "unknown"))
            in_the_run = ends > waited
            saves_low, lost = max(saves_low, LINE_KEPT * ends), max(lost, ends)
        if lost < threshold.value * step.step_ms or not worth(facts, lost):
            return None
        # a host that waits no more has so much more time, in which it may not be late any more
        freed = sum(max(call.held_ms, call.ms) for call in calls) / step.steps
        saves_high = max(lost, min(part * step.idle_by("sync", "host"), freed))
        count = sum(call.count for call in calls) / step.steps
        first = max(calls, key=_lost)
        name = first.operator or first.name
        return self.finding(
            title=(
                f"the device has nothing to do for {percent(lost / step.step_ms)} of each {ms(step.step_ms)} "
                f"step, since the host waits for it {self.does}"
            ),
            why=(
                f"{name} and its like are called {about(count)} times a step, and block the host "
                + (
                    f"until the device has caught up: {place(line.site, facts)} holds it for {ms(line.ms_per_step)}. "
                    f"Then nothing is queued, and the device stands idle for {ms(lost)} of the step. In recorded "
                    f"steps, whose host is slower, it was {ms(waited)}."
                    if in_the_run and line is not None
                    else f"for {ms(waited)}. For {ms(starved)} of that the device had already finished, or had been "
                    f"given nothing more to do{_afterwards(lost - starved)}; the rest was its own working time "
                    "and costs nothing."
                )
            ),
            evidence={
                "calls_per_step": count,
                "blocked_ms": waited,
                "starved_ms": starved,
                "step_ms": step.step_ms,
            },
            fix=Fix.at(
                first.site or (line.site if line else site_of(facts, None, self.pattern)), self.summary, self.code
            ),
            gain=Gain.of(step.step_ms, saves_low, saves_high),
            step_ms=step.step_ms,
        )


def _lost(call: SyncCall) -> float:
    return max(call.lost_ms, call.starved_ms)


def _part(calls: list[SyncCall], facts: Facts) -> float:
    """These calls' part of what the device lost to all waits."""
    every = sum(map(_lost, facts.device.syncs)) if facts.device is not None else 0.0
    return sum(map(_lost, calls)) / every if every > 0 else 0.0


def _afterwards(lost_ms: float) -> str:
    return f", and for up to {ms(lost_ms)} after them its queue was empty" if lost_ms > 0 else ""


class Item(_SyncRule):
    """A tensor is turned into a Python number in every step.

    ## Why it is slow
    `.item()`, `float(tensor)`, `bool(tensor)` and an `if` on a tensor need its value: the host waits until the
    device has computed it, and launches nothing meanwhile. Then the device waits for the host.

    ## Evidence
    The device's own clock was read, calls of `aten::item` and its like block the host, and for at least
    `threshold` of the step the device had nothing to do because of them. Where the device worked all the while,
    the wait is its own time and this rule is silent. It abstains where the recording was thinned.

    ## Fix
    Keep the value a tensor on the device, and turn it into a number every 50th step.

    ## Gain
    From the time in which the device starved during these calls, to that with the idle time after them, and with
    that in which the host was late, as far as these calls held it for as long. Of a live run, where the line was
    sampled, at least 80 % to 100 % of its time, as far as the device is idle in its stage.

    ## Reference
    PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization".
    """

    id = "sync/item"
    evidence = "training"
    arguments = {
        "transformers": "TrainingArguments(logging_steps=50, logging_nan_inf_filter=False)",
    }
    threshold = Threshold(0.05, "share of the step in which the device starves for it")
    does = "to turn a tensor into a number"
    pattern = ITEM_LINES
    summary = "Keep it a tensor on the device, and turn it into a number every 50th step."
    code = "total += loss.detach()  # stays on the device\nif step % 50 == 0:\n    print(total.item() / 50)"

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge calls of item()."""
        return self._judge(facts, step, [call for call in device.syncs if call.operator in ITEM], self.threshold)


class CopyToHost(_SyncRule):
    """Tensors are copied to the host in every step.

    ## Why it is slow
    `.cpu()`, `.numpy()` and `.to("cpu")` return once the data is there: the host waits for all work that was
    queued before, and launches nothing meanwhile.

    ## Evidence
    The device's own clock was read, copies to the host block it, and for at least `threshold` of the step the
    device had nothing to do because of them. It is silent where the device worked all the while, and abstains where
    the recording was thinned.

    ## Fix
    Compute on the device what is wanted of them; copy every 50th step, or with `non_blocking=True` into pinned
    memory and read it a step later.

    ## Gain
    From the time in which the device starved during these calls, to that with the idle time after them, and with
    that in which the host was late, as far as these calls held it for as long. Of a live run, where the line was
    sampled, at least 80 % to 100 % of its time, as far as the device is idle in its stage.

    ## Reference
    PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization".
    """

    id = "sync/copy-to-host"
    evidence = "training"
    threshold = Threshold(0.05, "share of the step in which the device starves for it")
    does = "to copy results to the host"
    pattern = TO_HOST_LINES
    summary = "Compute on the device, and copy every 50th step; or copy without blocking and read it a step later."
    code = 'later = outputs.detach().to("cpu", non_blocking=True)  # read it in the next step, after an event'

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge copies to the host."""
        calls = [call for call in device.syncs if call.operator in COPIES and not to_the_device(call, device)]
        return self._judge(facts, step, calls, self.threshold)


class DataDependentShape(_SyncRule):
    """An operator's result has a size that only its values tell.

    ## Why it is slow
    `nonzero`, `x[mask]`, `masked_select`, `unique` and `repeat_interleave` must know how many elements there are
    before they can allocate their result: the host waits for the device to count them.

    ## Evidence
    The device's own clock was read, such operators block the host, and for at least `threshold` of the step the
    device had nothing to do because of them. It is silent where the device worked all the while, and abstains where
    the recording was thinned.

    ## Fix
    Keep the shape: multiply by the mask, use `torch.where`, or weight the loss; give `repeat_interleave` its
    `output_size`.

    ## Gain
    From the time in which the device starved during these calls, to that with the idle time after them, and with
    that in which the host was late, as far as these calls held it for as long. Of a live run, where the line was
    sampled, at least 80 % to 100 % of its time, as far as the device is idle in its stage.

    ## Reference
    PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization".
    """

    id = "sync/data-dependent-shape"
    evidence = "training"
    threshold = Threshold(0.05, "share of the step in which the device starves for it")
    does = "to learn the size of a result"
    pattern = SHAPE_LINES
    summary = "Keep the shape, and let a mask or torch.where choose."
    code = "loss = (losses * mask).sum() / mask.sum()  # instead of losses[mask].mean()"

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge operators whose result's size depends on values."""
        return self._judge(facts, step, [call for call in device.syncs if call.operator in SHAPES], self.threshold)


class ExplicitSynchronize(_SyncRule):
    """The loop synchronizes with the device by itself.

    ## Why it is slow
    `torch.cuda.synchronize()` lets the host wait until nothing is left to do. Then the device is idle until the
    host has launched something again. It is needed around a measurement, not in a training.

    ## Evidence
    The device's own clock was read, synchronizing calls outside of any operator block the host, and for at
    least `threshold` of the step the device had nothing to do because of them. It is silent where the device worked
    all the while, and abstains where the recording was thinned.

    ## Fix
    Remove it. To time the device, use events, and read them later.

    ## Gain
    From the time in which the device starved during these calls, to that with the idle time after them, and with
    that in which the host was late, as far as these calls held it for as long. Of a live run, where the line was
    sampled, at least 80 % to 100 % of its time, as far as the device is idle in its stage.

    ## Reference
    PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization".
    """

    id = "sync/explicit-synchronize"
    evidence = "training"
    threshold = Threshold(0.05, "share of the step in which the device starves for it")
    does = "where the loop synchronizes"
    pattern = SYNCHRONIZE_LINES
    summary = "Remove the call; time the device by events, and read them later."
    code = "# delete: torch.cuda.synchronize()"

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge explicit synchronization."""
        calls = [call for call in device.syncs if not call.operator and re.search(_ALL, call.name)]
        return self._judge(facts, step, calls, self.threshold)
