"""transfer/pageable-memory, blocking-copies and no-overlap: how batches get to the device."""

from __future__ import annotations

from profiler.analysis.device_facts import CopyFacts, DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import LEAST_PAGEABLE, THINNED, TO_DEVICE, DeviceRule, PerStep, let_go, site_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent, size
from profiler.rules.sync.calls import COPIES, to_the_device

SMALL_COPY = 16_384  # bytes on the mean below which copies are parameters and numbers, not batches


class PageableMemory(DeviceRule):
    """Batches are copied to the device from pageable memory.

    ## Why it is slow
    The device can only fetch from memory that the system won't move. A pageable tensor is first copied into such a
    buffer, piece by piece, by the host, which waits: the copy is slower, and nothing runs beside it.

    ## Evidence
    The device's own clock recorded copies from pageable memory that take at least `threshold` of the step. It is
    silent where all copies came from pinned memory, and abstains where the recording does not tell them apart. The
    milliseconds in which the host was held by a copy while the device worked don't count: they are the device's.

    ## Fix
    `pin_memory=True` on the DataLoader and `non_blocking=True` at the copy.

    ## Gain
    30 % to 100 % of the copies' time on the device: from a faster copy alone, to one that runs beside the kernels.
    That a pinned copy takes at most 0.7 of the time is an assumption. Where the sampler saw the line of the copy
    outside of the copy itself, giving the batch's memory back, 80 % to 100 % of that on top.

    ## Reference
    PyTorch tutorial, "A guide on good usage of non_blocking and pin_memory".
    """

    id = "transfer/pageable-memory"
    arguments = {
        "transformers": "TrainingArguments(dataloader_pin_memory=True)",
    }
    evidence = "training"
    bottleneck = Bottleneck.HOST_TO_DEVICE
    threshold = Threshold(LEAST_PAGEABLE, "share of the step in which pageable memory is copied to the device")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge copies out of pageable memory."""
        copies = device.copies_of_steps.get("h2d_pageable")
        if copies is None or not copies.count:
            return self.abstain(_UNTOLD) if "h2d" in device.copies_of_steps else None
        took = copies.ms / step.steps
        if took < self.threshold.value * step.step_ms:
            return None
        loader = facts.settings.training_loader
        pins = loader is not None and loader.pin_memory
        freed = let_go(facts)
        freed_ms = min(freed.ms_per_step, sum((step.idle_ms or {}).values())) if freed else 0.0
        return self.finding(
            title=(
                f"copies from pageable memory take {percent(took / step.step_ms)} of each {ms(step.step_ms)} step"
                + _how_much(copies, step)
            ),
            why=(
                f"{_copies(copies, step)} {ms(took)} on the device's clock. The host copies the data into a pinned "
                f"buffer first and waits for it."
                + (" The DataLoader pins its batches: what is copied is made after it." if pins else "")
                + (
                    f" Where the name of the batch is bound to its copy, its memory is given back to the system: "
                    f"{ms(freed_ms)} more, which pinning moves to another thread."
                    if freed_ms
                    else ""
                )
            ),
            evidence=_evidence(copies, step, took),
            fix=Fix.at(
                loader.site if loader and not pins else site_of(facts, copies.site, TO_DEVICE),
                "Pin the batches, and copy them without blocking.",
                _PIN,
            ),
            gain=Gain.of(step.step_ms, 0.3 * took + 0.8 * freed_ms, took + freed_ms),
            step_ms=step.step_ms,
        )


class BlockingCopies(DeviceRule):
    """The host waits until a pinned batch has been copied.

    ## Why it is slow
    Without `non_blocking=True` a copy to the device returns only when it is done. From pinned memory it need not:
    the device would fetch the batch by itself while the host goes on to launch the forward pass.

    ## Evidence
    The device's own clock recorded copies from pinned memory, calls that copy to the device block the host, and for
    at least `threshold` of the step the device had no kernel to run meanwhile. It is silent where the device
    worked all the while, and abstains where the recording was thinned.

    ## Fix
    `non_blocking=True`.

    ## Gain
    The time in which the device starved during these calls, give or take a tenth.

    ## Reference
    PyTorch tutorial, "A guide on good usage of non_blocking and pin_memory".
    """

    id = "transfer/blocking-copies"
    bottleneck = Bottleneck.HOST_TO_DEVICE
    explained_by = ("transfer/pageable-memory",)
    threshold = Threshold(0.03, "share of the step in which the device starves for a blocking copy")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge copies that hold the host."""
        if "h2d_pinned" not in device.copies_of_steps or not device.copies_of_steps["h2d_pinned"].count:
            return None
        calls = [call for call in device.syncs if call.operator in COPIES and to_the_device(call, device)]
        if not calls:
            return None
        if step.idle_ms is None:
            return self.abstain(THINNED)
        starved = min(sum(call.starved_ms for call in calls) / step.steps, sum(step.idle_ms.values()))
        if starved < self.threshold.value * step.step_ms or not worth(facts, starved):
            return None
        blocked = sum(call.ms for call in calls) / step.steps
        first = max(calls, key=lambda call: call.starved_ms)
        return self.finding(
            title=(
                f"the host waits for copies of pinned batches while the device has nothing to do, "
                f"{percent(starved / step.step_ms)} of each {ms(step.step_ms)} step"
            ),
            why=(
                f"Copies to the device hold the host for {ms(blocked)} a step, {ms(starved)} of them while no kernel "
                f"runs. The batch lies in pinned memory, so that the host need not wait."
            ),
            evidence={"blocked_ms": blocked, "starved_ms": starved, "step_ms": step.step_ms},
            fix=Fix.at(
                site_of(facts, first.site, TO_DEVICE), "Copy without blocking.", "batch.to(device, non_blocking=True)"
            ),
            gain=Gain.of(step.step_ms, 0.9 * starved, starved),
            step_ms=step.step_ms,
        )


class NoOverlap(DeviceRule):
    """The next batch is copied when the step needs it, not during the step before.

    ## Why it is slow
    Copies and kernels use different parts of the device and could run at the same time. On one stream a copy waits
    for the kernels before it, and the next kernels for the copy.

    ## Evidence
    The device's own clock was read, and for at least `threshold` of the step it copied while no kernel ran. It is
    silent for copies of less than 16 KiB on the mean. Findings about pageable memory and blocking come first, since
    neither can overlap.

    ## Fix
    Copy the next batch on a stream of its own while this one trains (double buffering).

    ## Gain
    60 % to 100 % of the copies that nothing hid: the first batch, and what kernels and copies take from each other,
    remain.

    ## Reference
    CUDA C++ best practices guide, "Asynchronous and overlapping transfers with computation".
    """

    id = "transfer/no-overlap"
    evidence = "training"
    bottleneck = Bottleneck.HOST_TO_DEVICE
    explained_by = ("transfer/pageable-memory", "transfer/blocking-copies")
    threshold = Threshold(0.03, "share of the step in which the device copies and computes nothing")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge copies that run alone."""
        copies = [fact for kind, fact in device.copies_of_steps.items() if kind.startswith("h2d") and fact.count]
        if not copies:
            return None
        took = sum(fact.ms for fact in copies) / step.steps
        known = [fact.bytes for fact in copies if fact.bytes is not None]
        if known and sum(known) < SMALL_COPY * sum(fact.count for fact in copies):
            return None
        alone = min(took, step.copies_alone_ms)
        if alone < self.threshold.value * step.step_ms or not worth(facts, alone):
            return None
        return self.finding(
            title=(
                f"the device copies batches and computes nothing for {percent(alone / step.step_ms)} of each "
                f"{ms(step.step_ms)} step"
            ),
            why=(
                f"Copies to the device take {ms(took)} a step, and for {ms(alone)} of it no kernel ran. On a stream "
                f"of its own the next batch would come while this one trains."
            ),
            evidence={"copies_ms": took, "alone_ms": alone, "step_ms": step.step_ms},
            fix=Fix.at(
                site_of(facts, max(copies, key=lambda fact: fact.ms).site, TO_DEVICE),
                "Copy the next batch on a stream of its own.",
                _PREFETCH,
            ),
            gain=Gain.of(step.step_ms, 0.6 * alone, alone),
            step_ms=step.step_ms,
        )


def _how_much(copies: CopyFacts, step: PerStep) -> str:
    return f", {size(copies.bytes / step.steps)} at a time" if copies.bytes else ""


def _copies(copies: CopyFacts, step: PerStep) -> str:
    count = copies.count / step.steps
    rate = f" at {copies.bytes / copies.ms / 1e6:.1f} GB/s" if copies.bytes and copies.ms > 0 else ""
    return f"{count:.3g} copies a step{rate} take"


def _evidence(copies: CopyFacts, step: PerStep, took: float) -> dict[str, float]:
    known = {"bytes_per_step": copies.bytes / step.steps} if copies.bytes is not None else {}
    return {"copies_ms": took, "copies_per_step": copies.count / step.steps, "step_ms": step.step_ms, **known}


_UNTOLD = "the recording does not tell pageable from pinned memory"
_PIN = """\
loader = DataLoader(dataset, ..., pin_memory=True)
inputs = inputs.to(device, non_blocking=True)"""
_PREFETCH = """\
stream = torch.cuda.Stream()

def ahead(loader):
    following = None
    for batch in loader:  # pinned
        with torch.cuda.stream(stream):
            copied = [tensor.to(device, non_blocking=True) for tensor in batch]
        if following is not None:
            yield following
        torch.cuda.current_stream().wait_stream(stream)
        for tensor in copied:
            tensor.record_stream(torch.cuda.current_stream())
        following = copied
    if following is not None:
        yield following"""
