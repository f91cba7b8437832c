"""compute/mixed-precision."""

from __future__ import annotations

from profiler.analysis.facts import Facts, RootSettings
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import arithmetic_share, step_ms
from profiler.rules.phrases import ms, percent

SHARDED = ("fsdp",)  # they bring a precision of their own, which is not recorded


class MixedPrecision(Rule):
    """The model computes in float32 on an accelerator.

    ## Why it is slow
    Matrix units of accelerators take 16-bit numbers several times as fast as float32, and activations of
    half the size are moved in half the time.

    ## Evidence
    The model's parameters lie on an accelerator and all are float32, autocast was never entered, no gradient
    scaler was made, and the model's arithmetic takes at least `threshold` of the step. It abstains where
    precision could have been lowered unseen: in a compiled model, under FSDP, or where autocast was entered
    switched off. Always a note: what a device gains, and what a training bears, is not in the record.

    ## Fix
    Forward and loss under `torch.autocast` in bfloat16, which needs no gradient scaler.

    ## Gain
    Not promised: it depends on the device and on how much of the model is matrix products.

    ## Reference
    torch.amp, "Automatic Mixed Precision package".
    """

    id = "compute/mixed-precision"
    bottleneck = Bottleneck.COMPUTE
    threshold = Threshold(0.5, "share of the step in the model's arithmetic")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether 16-bit arithmetic was left unused."""
        machine, values = facts.machine, facts.settings.values
        if machine.device == "cpu" or arithmetic_share(facts) < self.threshold.value:
            return None
        models = [root for root in facts.settings.roots if not root.is_loss]
        model = max(models, key=lambda root: root.parameters, default=None)
        if model is None or not model.dtypes:
            return self.abstain("no model's parameters were seen")
        if set(model.dtypes) != {"float32"} or values.get("grad_scaler"):
            return None
        autocast = values.get("autocast")
        if isinstance(autocast, dict) and autocast.get("enabled"):
            return None
        if autocast is not None:
            return self.abstain("autocast was entered, at least once switched off")
        if any(root.compiled for root in models) or "compile" in values:
            return self.abstain("autocast within a compiled model is not seen")
        if any(name in values for name in SHARDED):
            return self.abstain("sharded parameters may compute in another precision than they are kept in")
        return self.finding(
            title=f"{model.name} computes in float32 on {machine.device}, and autocast is not used",
            why=(
                f"All parameters are float32 and autocast was never entered. Forward and backward, with a lesser "
                f"optimizer, take {percent(arithmetic_share(facts))} of each {ms(step_ms(facts))} step."
            ),
            evidence={
                "arithmetic_share": arithmetic_share(facts),
                "parameters": float(model.parameters),
                "step_ms": step_ms(facts),
            },
            fix=Fix.at(
                model.site,
                "Compute forward and loss under autocast in bfloat16, and compare time and loss.",
                _CODE.format(device=_device(model)),
            ),
            severity=Severity.INFO,
        )


def _device(model: RootSettings) -> str:
    devices = model.extra.get("devices")
    return str(devices[0]) if isinstance(devices, list) and devices else "cuda"


_CODE = """\
with torch.autocast("{device}", dtype=torch.bfloat16):
    loss = criterion(model(inputs), targets)
loss.backward()  # outside of it"""
