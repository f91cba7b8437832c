"""host/anomaly-detection."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity
from profiler.rules.phrases import place


class AnomalyDetection(Rule):
    """Autograd's anomaly detection was switched on.

    ## Why it is slow
    It keeps a Python traceback of each operator of the forward pass, and looks for NaN in every gradient of
    the backward pass: a tool to find an error with, not to train with.

    ## Evidence
    The setting as it was last made, at the user's line: a note, since it may have been on for a moment. It is a
    warning where it was on at the 5th step and still at the 25th.

    ## Fix
    Switch it off, and on again while you look for a NaN.

    ## Gain
    Not promised: it depends on the number of operators. Measure once without it.

    ## Reference
    torch.autograd.detect_anomaly: "This mode should be enabled only for debugging".
    """

    id = "host/anomaly-detection"
    evidence = "training"
    arguments = {
        "lightning": "Trainer(detect_anomaly=False)",
    }
    bottleneck = Bottleneck.HOST_OVERHEAD
    per_step = False
    needs_device_times = False

    def check(self, facts: Facts) -> Outcome:
        """Judge the setting."""
        if facts.steps is None or facts.settings.values.get("anomaly_mode") is not True:
            return None
        site = facts.settings.sites.get("anomaly_mode")
        where = f" at {place(site, facts)}" if site else ""
        standing = facts.settings.values.get("instruments")
        stood = isinstance(standing, list) and "anomaly detection" in standing
        long = " It was on at the 5th step and still at the 25th." if stood else ""
        return self.finding(
            title=f"autograd's anomaly detection was on{where}",
            why=(
                f"It was switched on{where}. While it is on, every operator of the forward pass keeps a traceback, "
                f"and every gradient is searched for NaN.{long}"
            ),
            evidence={"anomaly_mode": 1.0},
            fix=Fix.at(site, "Switch it off for training.", "torch.autograd.set_detect_anomaly(False)"),
            severity=Severity.WARNING if stood else Severity.INFO,
        )
