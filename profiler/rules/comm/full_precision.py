"""comm/full-precision-gradients."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.comm.exposed import Exposed, evidence, gradients_exposed, reduced, sentence, wrapped_at
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent, size


class FullPrecisionGradients(Rule):
    """Gradients cross the network in 32 bits, and the step waits for them.

    ## Why it is slow
    A gradient needs its range far more than its digits; half of the bytes on the wire carry digits that the
    optimizer's own noise hides.

    ## Evidence
    DistributedDataParallel reduces float32 gradients without a communication hook, and the transfer that nothing
    hides is at least `threshold` of the step. Abstains where waiting for late ranks can't be told from transfer.

    ## Fix
    Register a hook that sends them in 16 bits: bfloat16 over NCCL, float16 over gloo. It rounds: compare the loss.

    ## Gain
    Half of the bytes: 25 % to 50 % of the transfer, since latency and the conversion stay.

    ## Reference
    PyTorch, "DDP Communication Hooks".
    """

    id = "comm/full-precision-gradients"
    bottleneck = Bottleneck.COMMUNICATION
    explained_by = ("comm/accumulation-without-no-sync",)
    threshold = Threshold(0.1, "share of the step in transfer that nothing hides")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether fewer bytes would help."""
        reduction = reduced(facts)
        if reduction is None or reduction.comm_hook or "float" not in reduction.dtypes.split(", "):
            return None
        found = gradients_exposed(facts, self.threshold.value)
        if not isinstance(found, Exposed):
            return self.abstain(found) if found else None
        low, high = 0.25 * found.network_ms, 0.5 * found.network_ms
        if not worth(facts, low):
            return None
        hook = "fp16_compress_hook" if found.ranks.backend == "gloo" else "bf16_compress_hook"
        return self.finding(
            title=(
                f"{size(reduction.parameter_bytes)} of float32 gradients a step hold it up for "
                f"{ms(found.network_ms)} ({percent(found.share)})"
            ),
            why=f"{sentence(found)} No communication hook is registered, so each gradient is sent in 32 bits.",
            evidence={**evidence(found), "gradients_bytes": float(reduction.parameter_bytes)},
            fix=Fix.at(
                wrapped_at(facts),
                "Send gradients in 16 bits by a communication hook, and compare the loss.",
                "from torch.distributed.algorithms.ddp_comm_hooks import default_hooks\n\n"
                f"model.register_comm_hook(None, default_hooks.{hook})",
            ),
            gain=Gain.of(found.step_ms, low, high),
            step_ms=found.step_ms,
        )
