"""compute/healthy."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import arithmetic_share, share, step_ms
from profiler.rules.phrases import ms, percent


class Healthy(Rule):
    """The model's arithmetic is what takes the time.

    ## Why it is slow
    It isn't: forward, backward and the update fill the step, and nothing is in their way. What makes such a
    step shorter is less arithmetic, or faster arithmetic.

    ## Evidence
    Forward and backward, with the optimizer while it is the smaller part, take at least `threshold` of the
    step. It gives way to any warning about the step, and abstains where the device ran behind the host and
    its clock was not read.

    ## Fix
    Nothing needs one. Fusing (`torch.compile`), lower precision and a larger batch are what can still be
    tried, and measured.

    ## Gain
    Not promised: it depends on the model's operators, which this rule does not look at.

    ## Reference
    PyTorch performance tuning guide, "General optimizations".
    """

    id = "compute/healthy"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    explained_by = ("*",)
    threshold = Threshold(0.6, "share of the step in forward, backward and a lesser optimizer")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the model's arithmetic fills the step."""
        filled = arithmetic_share(facts)
        if filled < self.threshold.value:
            return None
        whole = step_ms(facts)
        parts = {name: share(facts, name) for name in ("forward", "backward", "optimizer")}
        compiled = any(root.compiled for root in facts.settings.roots)
        models = [root for root in facts.settings.roots if not root.is_loss]
        model = max(models, key=lambda root: root.parameters, default=None)
        fix = (
            Fix(
                "Nothing needs a fix; to go further, try lower precision or a larger batch, and measure.",
                _AUTOCAST,
            )
            if compiled
            else Fix.at(
                model.site if model else None,
                "Nothing needs a fix; to go further, let torch.compile fuse the model's operators, and measure.",
                "model = torch.compile(model)  # once, before the loop; the first steps compile and are slow",
            )
        )
        return self.finding(
            title=f"the model's own arithmetic takes {percent(filled)} of each {ms(whole)} step",
            why=(
                f"Forward takes {percent(parts['forward'])} of the step, backward "
                f"{percent(parts['backward'])} and the "
                f"optimizer {percent(parts['optimizer'])}.{_rest(facts)}"
            ),
            evidence={
                "arithmetic_share": filled,
                "step_ms": whole,
                **{f"{k}_share": v for k, v in parts.items()},
            },
            fix=fix,
            severity=Severity.INFO,
        )


def _rest(facts: Facts) -> str:
    """What the step does besides, of what was measured."""
    known = (("data_wait", "the wait for data"), ("communication", "other ranks"), ("other", "what is in no stage"))
    said = [
        f"{what} {percent(share(facts, stage))}"
        for stage, what in known
        if stage in facts.stages and facts.stages[stage].happened
    ]
    return f" Besides, {', '.join(said)}." if said else ""


_AUTOCAST = """\
with torch.autocast(device_type="cpu", dtype=torch.bfloat16):  # or "cuda"
    loss = criterion(model(inputs), targets)"""
