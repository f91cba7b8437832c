"""compute/mixed-precision."""

from __future__ import annotations

from profiler.analysis.device_facts import DeviceFacts
from profiler.analysis.facts import Facts, RootSettings
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold
from profiler.rules.device import FUSES, PRODUCTS, generation, per_step
from profiler.rules.evidence import HOST_TIMES, WORTH_SHARE, arithmetic_share, host_times, step_ms
from profiler.rules.phrases import ms, percent

PRODUCTS_LEFT = (0.35, 0.6)  # of their time; assumptions, see the docstring
MOVED_LEFT = (0.5, 0.8)
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
    switched off. Where the device's own clock was read, kernels decide: it speaks if the device has tensor cores, none
    of the kernels used them, and products and convolutions take at least `products` of the step. Always a note: what
    a training bears is not in the record.

    ## Fix
    Forward and loss under `torch.autocast` in bfloat16, which needs no gradient scaler.

    ## Gain
    Without the device's clock not promised. With it: of products and convolutions 0.35 to 0.6 of the time remain, of
    element-wise kernels and normalizations 0.5 to 0.8, as far as the device sets the pace. These are assumptions,
    below what is published (whole trainings 1.5 to 3 times as fast on Volta, NVIDIA's mixed-precision guide).

    ## Reference
    torch.amp, "Automatic Mixed Precision package".
    """

    id = "compute/mixed-precision"
    arguments = {
        "transformers": "TrainingArguments(bf16=True)",
        "lightning": 'Trainer(precision="bf16-mixed")',
    }
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    needs_device_times = False
    threshold = Threshold(0.5, "share of the step in the model's arithmetic")
    products = Threshold(0.2, "share of the step in products and convolutions, by the device's clock")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether 16-bit arithmetic was left unused."""
        machine, values = facts.machine, facts.settings.values
        if machine.device != "cpu" and facts.device is not None and facts.device.tensor_core_share == 0:
            return self._by_kernels(facts, facts.device)
        if host_times(facts):
            return self.abstain(HOST_TIMES)
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

    def _by_kernels(self, facts: Facts, device: DeviceFacts) -> Outcome:
        """No kernel used tensor cores."""
        step = per_step(facts)
        if isinstance(step, str):
            return self.abstain(step)
        if generation(facts) is None:
            return self.abstain("whether the device has tensor cores is not known")
        products = step.running(*PRODUCTS)
        moved = step.running(*FUSES)
        if products < self.products.value * step.step_ms:
            return None
        low, high = (
            step.shortens((1 - left) * products + (1 - kept) * moved)
            for left, kept in zip(PRODUCTS_LEFT[::-1], MOVED_LEFT[::-1], strict=True)
        )
        model = max(facts.settings.roots, key=lambda root: root.parameters, default=None)
        gain = Gain.of(step.step_ms, low, high) if high >= WORTH_SHARE * step.step_ms else None
        return self.finding(
            title=(
                f"no kernel ran on tensor cores, and products and convolutions take "
                f"{percent(products / step.step_ms)} of each {ms(step.step_ms)} step"
            ),
            why=(
                f"They run for {ms(products)} of the device's {ms(step.busy_ms)} in float32; in 16 bits tensor cores "
                f"take them several times as fast, and other kernels move half as much."
                + ("" if gain else " The host sets the pace here, so that the step would hardly get shorter.")
            ),
            evidence={
                "products_ms": products,
                "products_share": products / step.step_ms,
                "busy_ms": step.busy_ms,
                "step_ms": step.step_ms,
            },
            fix=Fix.at(
                model.site if model else None,
                "Compute forward and loss under autocast in 16 bits, and compare time and loss.",
                _CODE.format(device=_device(model) if model else "cuda"),
            ),
            gain=gain,
            step_ms=step.step_ms,
            severity=Severity.INFO,
        )


def _device(model: RootSettings) -> str:
    devices = model.extra.get("devices")
    return str(devices[0]) if isinstance(devices, list) and devices else "cuda"


_CODE = """\
with torch.autocast("{device}", dtype=torch.bfloat16):
    loss = criterion(model(inputs), targets)
loss.backward()  # outside of it"""
