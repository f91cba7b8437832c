"""host/logging, progress-bar, metrics, ema-loop and deepcopy: what loops do in each step and need not."""

from __future__ import annotations

from profiler.analysis.facts import Facts, LineTime
from profiler.rules.base import Threshold
from profiler.rules.host.kinds import Kind
from profiler.rules.host.line_rule import LineRule

COPIED_BYTES_PER_MS = 1e6


class Logging(LineRule):
    """Logging, printing or writing in every step holds the loop up.

    ## Why it is slow
    Formatting text, encoding numbers and waiting for a file, a terminal or a server happen on the thread that
    trains, and the next step waits for them. On an accelerator a number that is printed is waited for as well.

    ## Evidence
    The sampler found the training thread at a line that logs, prints, encodes or writes, or in what it calls,
    for at least `threshold` of the step, between the stages or within forward and optimizer. It abstains where
    it saw fewer than `samples` of it.

    ## Fix
    Every 50th step instead of each: `logging_steps` of the Hugging Face Trainer, `log_every_n_steps` of Lightning.

    ## Gain
    95 % to all of the line's milliseconds, give or take the sampling error. At most 25 % more: what comes after
    the line finds warmer caches.

    ## Reference
    PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization".
    """

    id = "host/logging"
    explained_by = ("sync/print-tensor",)
    same_line = True
    evidence = "training"
    threshold = Threshold(0.05, "share of the step spent at one line")
    samples = Threshold(8, "samples of the line below which it is not named")


class ProgressBar(LineRule):
    """Drawing the progress bar takes a visible part of each step.

    ## Why it is slow
    A bar that is drawn again for each step formats its text and writes to the terminal; where steps take a few
    milliseconds that is a good part of them.

    ## Evidence
    The sampler found the training thread in a progress bar's code (tqdm, rich, alive-progress), or at a line
    that updates one, for at least `threshold` of the step. It abstains where it saw fewer than `samples` of it.

    ## Fix
    Redraw once a second (`mininterval`), or every 50th step.

    ## Gain
    85 % to all of the line's milliseconds, give or take the sampling error: counting stays. At most 25 %
    more: what comes after the line finds warmer caches.

    ## Reference
    tqdm documentation, "mininterval" and "miniters"; rich, "Progress", refresh_per_second.
    """

    id = "host/progress-bar"
    evidence = "training"
    threshold = Threshold(0.05, "share of the step spent at one line")
    samples = Threshold(8, "samples of the line below which it is not named")


class Metrics(LineRule):
    """A metric of the training batch is computed in every step.

    ## Why it is slow
    Metrics of scikit-learn, scipy and pandas leave torch: the outputs are copied out, and what is counted is
    counted on one core while the next step waits.

    ## Evidence
    The sampler found the training thread in such a library, or at a line that computes a metric by its name,
    for at least `threshold` of the step. It abstains where it saw fewer than `samples` of it.

    ## Fix
    Keep the outputs as tensors, and compute the metric every 50th step or once an epoch.

    ## Gain
    95 % to all of the line's milliseconds, give or take the sampling error. At most 25 % more: what comes after
    the line finds warmer caches.

    ## Reference
    torchmetrics documentation, "update" and "compute".
    """

    id = "host/metrics"
    threshold = Threshold(0.05, "share of the step spent at one line")
    samples = Threshold(8, "samples of the line below which it is not named")


class EmaLoop(LineRule):
    """Averages of the weights are updated tensor by tensor.

    ## Why it is slow
    A loop over the parameters makes two or three operators for each tensor: for small tensors what they cost
    is Python and the operators' start, not the arithmetic, and a device gets two small kernels for each.

    ## Evidence
    The sampler found the training thread at a line that multiplies, mixes or copies an average, a teacher or a
    target network in place, for at least `threshold` of the step. It abstains where it saw fewer than `samples`
    of it.

    ## Fix
    One call for all tensors: `torch.optim.swa_utils.get_ema_multi_avg_fn`, over lists that are made once. Or
    update the average every tenth step, with the decay to the tenth power.

    ## Gain
    38 % to 90 % of the line's milliseconds, the less the larger the tensors: measured on one core with linear
    layers of 64 (88 %), 256 (66 %) and 512 (38 %) units, torch 2.13. At most 25 % more: what comes after the line
    finds warmer caches.

    ## Reference
    torch.optim.swa_utils, "EMA".
    """

    id = "host/ema-loop"
    evidence = "training"
    threshold = Threshold(0.05, "share of the step spent at one line")
    samples = Threshold(8, "samples of the line below which it is not named")


class Deepcopy(LineRule):
    """The model or its state is copied as Python objects in every step.

    ## Why it is slow
    `copy.deepcopy` walks through every module, dict and hook in Python and allocates every tensor anew, where
    one copy of the values into tensors that exist would do.

    ## Evidence
    The sampler found the training thread in the copy module, or at a line that calls it, for at least
    `threshold` of the step, between the stages or within forward and optimizer. It abstains where it saw fewer
    than `samples` of it.

    ## Fix
    Keep one copy and update it in place: `torch.optim.swa_utils.AveragedModel`, or `load_state_dict`.

    ## Gain
    75 % to all of the line's milliseconds, give or take the sampling error: the values are still copied. Up to
    95 % at the least where the model's parameters are copied in less, at 1 GB/s. At most 25 % more: what
    comes after the line finds warmer caches.

    ## Reference
    torch.optim.swa_utils.AveragedModel; Python documentation, copy.deepcopy.
    """

    id = "host/deepcopy"
    evidence = "training"
    threshold = Threshold(0.05, "share of the step spent at one line")
    samples = Threshold(8, "samples of the line below which it is not named")

    def least(self, facts: Facts, line: LineTime, kind: Kind) -> float:
        """Less goes where there are many bytes to copy."""
        held = sum(root.parameter_bytes for root in facts.settings.roots)
        copying_ms = held / COPIED_BYTES_PER_MS
        return max(kind.least, min(0.95, 1 - copying_ms / line.ms_per_step)) if held else kind.least
