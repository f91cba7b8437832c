"""compute/changing-shapes."""

from __future__ import annotations

import re
from typing import Any

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import THINNED, DeviceRule, PerStep
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent

PLANNED = r"^aten::_?cudnn_(attention|convolution)|^aten::_scaled_dot_product_cudnn"
LEFT = (0.05, 0.2)  # of that time: what planned shapes still cost the host


class ChangingShapes(DeviceRule):
    """cuDNN plans its kernels anew, since shapes change from step to step.

    ## Why it is slow
    cuDNN chooses and builds a plan for each shape that it sees, which takes the host milliseconds, and remembers it.
    Where every batch has another length, nearly every call builds one, and the device waits.

    ## Evidence
    In the recorded steps of a live run, cuDNN's attention or convolutions took the host at least `call_ms` a call (a
    planned one takes some hundredths), at least `threshold` of the step together, and the device was idle for as long.

    ## Fix
    Few shapes: pad lengths to a multiple of 64 or 128, or group batches by length. Or kernels that need no plan:
    `torch.backends.cuda.enable_cudnn_sdp(False)` leaves attention to flash attention.

    ## Gain
    80 % to 95 % of that time, which recording does not lengthen, as far as the device is idle.

    ## Reference
    cuDNN frontend developer guide, "Execution plans"; torch.nn.attention.sdpa_kernel.
    """

    id = "compute/changing-shapes"
    evidence = "training"
    bottleneck = Bottleneck.HOST_OVERHEAD
    threshold = Threshold(0.1, "share of the step in which the host plans")
    call_ms = Threshold(1.0, "milliseconds of the host for one call, from which it was not planned before")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge cuDNN's calls by the host's time in them."""
        slow = [row for row in facts.operators if self._plans(row)]
        planning = sum(float(row["ms_per_step"]) for row in slow)
        if planning < self.threshold.value * step.step_ms:
            return None
        if step.idle_ms is None:
            return self.abstain(THINNED)
        took = min(planning, step.idle_by("host", "unknown"))
        if took < self.threshold.value * step.step_ms or not worth(facts, took):
            return None
        calls = sum(float(row["calls_per_step"]) for row in slow)
        each = planning / calls
        attention = any("attention" in str(row["name"]) for row in slow)
        what = "attention" if attention else "convolutions"
        return self.finding(
            title=(
                f"the host plans cuDNN's {what} anew for {percent(took / step.step_ms)} of each {ms(step.step_ms)} "
                "step, since shapes change"
            ),
            why=(
                f"{calls:.3g} calls a step take the host {ms(each)} each, in which nothing is launched: cuDNN builds a "
                "plan for every shape that it has not seen."
            ),
            evidence={"calls_per_step": calls, "call_ms": each, "planning_ms": planning, "step_ms": step.step_ms},
            fix=Fix(
                "Pad batches to a few lengths" + (", or leave attention to flash attention." if attention else "."),
                _LENGTHS + (_FLASH if attention else ""),
            ),
            gain=Gain.of(step.step_ms, (1 - LEFT[1]) * took, (1 - LEFT[0]) * took),
            step_ms=step.step_ms,
        )

    def _plans(self, row: dict[str, Any]) -> bool:
        calls = float(row.get("calls_per_step") or 0.0)
        of_host = row.get("device") == "cpu" and re.search(PLANNED, str(row.get("name")))
        return bool(of_host) and calls > 0 and float(row["ms_per_step"]) / calls >= self.call_ms.value


_LENGTHS = "length = 128 * math.ceil(length / 128)  # of the batch; the rest is padding\n"
_FLASH = "torch.backends.cuda.enable_cudnn_sdp(False)  # once, before the training: flash attention needs no plan"
