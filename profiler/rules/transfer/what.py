"""transfer/made-on-cpu and wide-dtype: what is copied to the device and need not be."""

from __future__ import annotations

from typing import Any

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import DeviceRule, PerStep, sampled
from profiler.rules.evidence import worth
from profiler.rules.phrases import about, ms, percent, place, size

TINY = 65_536  # bytes of a copy that its launch and its wait cost more than its data
MADE = r"torch\.(tensor|zeros|ones|full|rand\w*|arange|eye|linspace|from_numpy|as_tensor)\([^#]*\)\.(to|cuda)\("
COPY_US = 10.0  # at least, on the host: an allocation, a launch and a wait …
MOST_US = 50.0  # … and at most: what is longer waits for the device's own work


class MadeOnCpu(DeviceRule):
    """Small tensors are made on the host and moved to the device in every step.

    ## Why it is slow
    `torch.zeros(n).to(device)` allocates and fills on the host, then copies and waits. `torch.zeros(n,
    device=device)` is one launch. Masks, positions and noise are often made so, several times a step.

    ## Evidence
    The device's own clock was read; more than `copies` copies to the device a step are smaller than 64 KiB on the
    mean, and the host is blocked in them while the device starves, or a line that makes a tensor and moves it was
    sampled, for at least `threshold` of the step together.

    ## Fix
    `device=device` where the tensor is made; constants once, before the loop.

    ## Gain
    The host's time in such copies, 10 to 50 µs for each of them, to twice as much (making them), as far as the device
    is idle.

    ## Reference
    PyTorch performance tuning guide, "Create tensors directly on the target device".
    """

    id = "transfer/made-on-cpu"
    evidence = "training"
    bottleneck = Bottleneck.HOST_TO_DEVICE
    threshold = Threshold(0.03, "share of the step that it costs")
    copies = Threshold(4, "copies to the device a step up to which they are the batch")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge many small copies to the device."""
        facts_of = [fact for kind, fact in device.copies_of_steps.items() if kind.startswith("h2d") and fact.count]
        count = sum(fact.count for fact in facts_of) / step.steps
        if count <= self.copies.value:
            return None
        known = [fact.bytes for fact in facts_of]
        if any(held is None for held in known):
            return self.abstain("the recording does not say how large the copies were")
        mean_bytes = sum(held or 0 for held in known) / (count * step.steps)
        if mean_bytes > TINY or step.idle_ms is None:
            return None
        line = sampled(facts, MADE)
        idle = step.idle_by("host", "copy", "sync", "unknown")
        stage = facts.stages.get("host_to_device")
        copying = (stage.host_ms or 0.0) if stage is not None and facts.trace is None else 0.0
        copying = min(copying, count * MOST_US / 1000)
        saves_low = min(max(count * COPY_US / 1000, copying), idle)
        saves_high = min(max(2 * saves_low, line.ms_per_step if line else 0.0), idle)
        if saves_high < self.threshold.value * step.step_ms or not worth(facts, saves_high):
            return None
        return self.finding(
            title=(
                f"{about(count)} small copies to the device in each {ms(step.step_ms)} step, of "
                f"{size(mean_bytes)} on the mean"
            ),
            why=(
                f"A batch comes in one or two copies. These are tensors that were made on the host and moved, and each "
                f"costs it an allocation, a launch and mostly a wait, while the device is idle for {ms(idle)}."
                + (f" {place(line.site, facts)} is such a line." if line else "")
            ),
            evidence={"copies_per_step": count, "mean_bytes": mean_bytes, "step_ms": step.step_ms},
            fix=Fix.at(
                line.site if line else max(facts_of, key=lambda fact: fact.count).site,
                "Make them on the device, constants once before the loop.",
                "mask = torch.zeros(n, device=device)  # instead of torch.zeros(n).to(device)",
            ),
            gain=Gain.of(step.step_ms, saves_low, saves_high),
            step_ms=step.step_ms,
        )


class WideDtype(DeviceRule):
    """Images are copied to the device as float32, though bytes would do.

    ## Why it is slow
    Pixels are bytes. Made floats on the host, four times as much is computed there, copied to the device and kept in
    the workers' queues. The device makes floats of bytes in no time.

    ## Evidence
    The first batch holds float images of at most 256 different values a channel (looked at once), and copies to
    the device take at least `threshold` of the step by its own clock. It abstains where no batch was looked at.

    ## Fix
    Leave them `uint8` in the dataset; convert and normalize on the device.

    ## Gain
    70 % to 75 % of the copies' time: a quarter of the bytes, and one kernel more.

    ## Reference
    PyTorch performance tuning guide; torchvision.transforms.v2, "ToDtype".
    """

    id = "transfer/wide-dtype"
    bottleneck = Bottleneck.HOST_TO_DEVICE
    threshold = Threshold(0.03, "share of the step in which batches are copied to the device")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge images that are copied as floats."""
        copies = [fact for kind, fact in device.copies_of_steps.items() if kind.startswith("h2d") and fact.count]
        took = sum(fact.ms for fact in copies) / step.steps
        if took < self.threshold.value * step.step_ms:
            return None
        loader = facts.settings.training_loader
        tensors: Any = loader.extra.get("tensors") if loader else None
        if loader is None or not isinstance(tensors, list):
            return self.abstain("no batch was looked at")
        wide = [it for it in tensors if isinstance(it, dict) and it.get("from_bytes") is True]
        total = sum(int(it.get("bytes") or 0) for it in tensors if isinstance(it, dict))
        if not wide or not total:
            return None
        bytes_now = sum(int(it.get("bytes") or 0) for it in wide)
        width = 4 if wide[0].get("dtype") == "float32" else 2
        of_copies = took * bytes_now / total
        saves = of_copies * (1 - 1 / width)
        saves = min(saves, step.copies_alone_ms + step.waited_ms)
        if not worth(facts, saves):
            return None
        return self.finding(
            title=(
                f"images are copied as {wide[0].get('dtype')}, {size(bytes_now)} a batch, where bytes would be "
                f"{size(bytes_now / width)}"
            ),
            why=(
                f"A channel of the first batch has at most 256 different values, so that it was made from bytes. "
                f"Copying takes {ms(took)} a step on the device's clock, {percent(took / step.step_ms)} of it."
            ),
            evidence={"copies_ms": took, "bytes": float(bytes_now), "step_ms": step.step_ms},
            fix=Fix.at(loader.site, "Keep images as uint8 up to the device.", _BYTES),
            gain=Gain.of(step.step_ms, 0.93 * saves, saves),
            step_ms=step.step_ms,
        )


_BYTES = """\
# in the dataset: a uint8 tensor, not ToTensor() and Normalize()
images = images.to(device, non_blocking=True)
images = images.float().div_(255).sub_(mean).div_(std)  # mean, std: tensors on the device"""
