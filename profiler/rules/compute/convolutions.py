"""compute/channels-last and cudnn-benchmark: how convolutions are laid out and chosen."""

from __future__ import annotations

import re

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Severity, Threshold
from profiler.rules.device import DeviceRule, PerStep
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent

NORMS = r"^(?!.*channels_last).*batch_norm"  # kernels that normalize one channel after the other
NORMS_SAVED = (0.3, 0.6)  # of their time, which those for channels last don't take: 0.61 was seen on an H200
TRANSPOSES = r"nchwToNhwc|nhwcToNchw|nchw2nhwc|nhwc2nchw|transpose_readWrite|convertTensor"


class ChannelsLast(DeviceRule):
    """Convolutions turn their tensors around before and after their work.

    ## Why it is slow
    Tensor cores convolve images whose channels lie last. Given the usual layout, cuDNN transposes input and output
    of every convolution.

    ## Evidence
    The device's own clock recorded kernels that transpose between the two layouts, for at least `threshold` of the
    step. It is silent where the model's weights lie channels last already, and where the host sets the pace.

    ## Fix
    `model.to(memory_format=torch.channels_last)`, and the same for the input.

    ## Gain
    90 % to 100 % of the transposing kernels' time, and 30 % to 60 % of that of batch norms, whose kernels for channels
    last are faster (61 % on an H200), as far as the device sets the pace.

    ## Reference
    PyTorch tutorial, "Channels Last Memory Format in PyTorch".
    """

    id = "compute/channels-last"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    threshold = Threshold(0.03, "share of the step in kernels that transpose")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge kernels that turn tensors around."""
        root = max(facts.settings.roots, key=lambda root: root.parameters, default=None)
        if root is not None and root.extra.get("channels_last") is True:
            return None
        found = [it for it in device.kernels if re.search(TRANSPOSES, it.name)]
        took = sum(it.ms for it in found) / step.steps
        saves = step.shortens(took)
        norms = sum(it.ms for it in device.kernels if re.search(NORMS, it.name)) / step.steps
        if took < self.threshold.value * step.step_ms or saves < self.threshold.value * step.step_ms:
            return None
        count = sum(it.count for it in found) / step.steps
        return self.finding(
            title=(
                f"transposing images for convolutions takes {percent(took / step.step_ms)} of each "
                f"{ms(step.step_ms)} step"
            ),
            why=(
                f"{count:.0f} kernels a step turn tensors from channels first to channels last and back, {ms(took)} of "
                f"the device's {ms(step.busy_ms)}."
            ),
            evidence={"transposes_ms": took, "transposes": count, "step_ms": step.step_ms},
            fix=Fix.at(root.site if root else None, "Keep model and images channels last.", _CODE),
            gain=Gain.of(
                step.step_ms,
                step.shortens(0.9 * took + NORMS_SAVED[0] * norms),
                step.shortens(took + NORMS_SAVED[1] * norms),
            ),
            step_ms=step.step_ms,
        )


class CudnnBenchmark(DeviceRule):
    """cuDNN guesses its convolution algorithms instead of timing them.

    ## Why it is slow
    cuDNN has several algorithms for a convolution, and without `cudnn.benchmark` a heuristic chooses. Timed once for
    each size, the fastest is taken for the rest of the run.

    ## Evidence
    The model has convolutions, they take at least `threshold` of the step by the device's clock, and
    `cudnn.benchmark` and `cudnn.deterministic` stood off. It abstains where the settings were not read. It is a note:
    whether sizes stay the same, and whether the heuristic chose badly, is not in the record.

    ## Fix
    `torch.backends.cudnn.benchmark = True`, where images have one size.

    ## Gain
    Up to 15 % of the convolutions' time, an assumption, as far as the device sets the pace.

    ## Reference
    PyTorch performance tuning guide, "Enable cuDNN auto-tuner".
    """

    id = "compute/cudnn-benchmark"
    arguments = {
        "lightning": "Trainer(benchmark=True)",
    }
    bottleneck = Bottleneck.COMPUTE
    threshold = Threshold(0.3, "share of the step in convolutions")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge how convolutions are chosen."""
        took = step.running("convolution")
        if took < self.threshold.value * step.step_ms:
            return None
        values = facts.settings.values
        benchmark = values.get("cudnn_benchmark")
        if not isinstance(benchmark, bool):
            return self.abstain("cuDNN's settings were not read")
        if benchmark or values.get("cudnn_deterministic") or values.get("deterministic_algorithms"):
            return None
        saves = step.shortens(0.15 * took)
        if not worth(facts, saves):
            return None
        return self.finding(
            title=(
                f"convolutions take {percent(took / step.step_ms)} of each {ms(step.step_ms)} step, and cuDNN chose "
                f"their algorithms untimed"
            ),
            why=f"They run for {ms(took)} of the device's {ms(step.busy_ms)}, and cudnn.benchmark is off.",
            evidence={"convolutions_ms": took, "step_ms": step.step_ms},
            fix=Fix("Let cuDNN time its algorithms, if images have one size.", "torch.backends.cudnn.benchmark = True"),
            gain=Gain.of(step.step_ms, 0.0, saves),
            step_ms=step.step_ms,
            severity=Severity.INFO,
        )


_CODE = """\
model = model.to(memory_format=torch.channels_last)
images = images.to(device, memory_format=torch.channels_last, non_blocking=True)"""
