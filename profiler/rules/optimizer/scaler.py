"""optimizer/scaler."""

from __future__ import annotations

from typing import Any

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, percent

LEAST = 0.45  # of the time of its calls (measured, see the docstring)


class Scaler(Rule):
    """A GradScaler guards bfloat16, which does not need it.

    ## Why it is slow
    Loss scaling keeps small gradients of float16 from becoming zero. It divides all gradients and looks
    through them for infinities in every step. bfloat16 has the range of float32, so that nothing is won.

    ## Evidence
    `torch.autocast` was entered with bfloat16, and GradScaler's own calls (unscale_, step and update, without
    the optimizer's step in them) take above `threshold` of the step. It abstains when no autocast was seen,
    and where the device runs behind the host. It is a note, since of several autocasts the record keeps the last
    new one. With float16, in autocast or in parameters, it is silent:
    there the scaler is needed.

    ## Fix
    `GradScaler(enabled=False)`: all calls to it may stay, and do nothing.

    ## Gain
    45 % to 100 % of the scaler's calls: looking through the gradients leaves them in the caches, and without it
    the optimizer is the first to read them (measured, 4.6 million parameters on one core: half).

    ## Reference
    torch.amp, "Gradient Scaling".
    """

    id = "optimizer/scaler"
    evidence = "training"
    bottleneck = Bottleneck.OPTIMIZER
    threshold = Threshold(0.05, "share of the step spent in GradScaler's calls")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether a scaler that is not needed takes time."""
        stage, whole = facts.stages.get("optimizer"), step_ms(facts)
        took_ms = stage.parts_ms.get("scaler", 0.0) if stage else 0.0
        if stage is None or whole <= 0 or took_ms < self.threshold.value * whole or not worth(facts, took_ms):
            return None
        autocast: Any = facts.settings.values.get("autocast")
        if not isinstance(autocast, dict):
            return self.abstain("the number format that the scaler guards was not seen")
        half = any("float16" in root.dtypes for root in facts.settings.roots)
        if autocast.get("dtype") != "bfloat16" or not autocast.get("enabled") or half:
            return None
        if facts.machine.asynchronous:
            return self.abstain("the device runs behind the host, and the scaler's calls may wait for other work")
        line = next((line for line in stage.lines if "scaler." in line.source), None)
        return self.finding(
            title=f"A GradScaler that bfloat16 does not need takes {percent(took_ms / whole)} of each {ms(whole)} step",
            why=(
                f"The forward pass runs under autocast to bfloat16, and GradScaler spends {ms(took_ms)} of each "
                "step dividing gradients and looking for infinities. Its scale only matters to float16."
            ),
            evidence={"scaler_ms": took_ms, "scaler_share": took_ms / whole, "step_ms": whole},
            fix=Fix.at(line.site if line else None, "Switch the GradScaler off.", _CODE),
            gain=Gain.of(whole, LEAST * took_ms, took_ms),
            step_ms=whole,
            severity=Severity.INFO,  # autocast to float16 elsewhere in the run would not be seen
        )


_CODE = "scaler = torch.amp.GradScaler(..., enabled=False)  # its calls may stay: they do nothing then"
