"""comm/exposed-collectives."""

from __future__ import annotations

from profiler.analysis.device_facts import CollectiveFacts, DeviceFacts
from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Threshold
from profiler.rules.device import DeviceRule, PerStep, judged_steps
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent

REACHED = 0.5  # of what the other kernels have room for: what follows a collective at once can't run beside it
FIXES = {
    "all_reduce": (
        "Let gradients travel while backward still computes, and in half as many bytes.",
        "model = DistributedDataParallel(model, bucket_cap_mb=50, gradient_as_bucket_view=True)\n"
        "from torch.distributed.algorithms.ddp_comm_hooks import default_hooks\n"
        "model.register_comm_hook(None, default_hooks.bf16_compress_hook)\n"
        "# while accumulating: with model.no_sync(): loss.backward()",
    ),
    "all_gather": (
        "Gather the next layer's parameters while this one computes.",
        "fully_shard(layer)  # each layer on its own, then the model: FSDP2 then prefetches the next one\n"
        "layer.set_modules_to_forward_prefetch([next_layer])\n"
        "# FSDP1: FullyShardedDataParallel(..., forward_prefetch=True, limit_all_gathers=True)\n"
        "# with memory to spare: fully_shard(layer, reshard_after_forward=False)",
    ),
    "reduce_scatter": (
        "Shard by layer, so that one layer's gradients travel while the one before it computes.",
        "policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16)\n"
        "for layer in model.layers:\n    fully_shard(layer, mp_policy=policy)\n"
        "fully_shard(model, mp_policy=policy)",
    ),
    "all_to_all": (
        "Exchange the next batch's inputs while this one computes.",
        "pipeline = TrainPipelineSparseDist(model, optimizer, device)  # torchrec\n"
        "loss = pipeline.progress(iterator)\n"
        "# experts: dispatch in chunks, and compute one chunk while the next is exchanged",
    ),
    "send_recv": (
        "Cut the batch into more micro-batches, so that stages compute while others send.",
        "schedule = ScheduleInterleaved1F1B(stages, n_microbatches=4 * len(stages))",
    ),
}
OTHERWISE = (
    "Start the exchange early, compute what does not need it, and wait only then.",
    "work = torch.distributed.all_reduce(tensor, async_op=True)\n...  # what does not need it\nwork.wait()",
)


class ExposedCollectives(DeviceRule):
    """The device does nothing but exchange data between ranks.

    ## Why it is slow
    A collective runs on a stream of its own, and costs nothing while kernels of the model run beside it. What no
    other kernel covers is exposed: for so long the device's arithmetic stands still.

    ## Evidence
    Time in which collectives ran and no other kernel did, by the device's own clock, within the steps: at least
    `threshold` of the step. A collective lasts until its last rank has joined it, so that a rank that comes late looks
    the same from one rank's recording: give the traces of all ranks together, or run the job under `prof attach`, to
    tell the two apart. It is silent where the ranks of the job were recorded and their exchange was timed on the host
    (the other rules of this family speak then), and abstains where kernels were taken out of the recording: what hid
    the exchange may be gone.

    ## Fix
    By the kind that is exposed most: gradients' all-reduce overlaps backward by bucket; FSDP's gathers are prefetched;
    all-to-all of sparse features or experts is pipelined over batches or chunks; send and receive hide behind more
    micro-batches.

    ## Gain
    Exposed time can hide behind the kernels that nothing runs beside yet, and never more of it than they last: from
    half of that to all of it.

    ## Reference
    Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020; PyTorch, "Getting
    Started with Fully Sharded Data Parallel (FSDP2)".
    """

    id = "comm/exposed-collectives"
    evidence = "trace"
    bottleneck = Bottleneck.COMMUNICATION
    threshold = Threshold(0.05, "share of the step in which collectives ran and no other kernel did")

    def judge(self, facts: Facts, device: DeviceFacts, step: PerStep) -> Outcome:
        """Judge the exchange that nothing hides."""
        if facts.ranks is not None and not facts.machine.asynchronous:
            return None
        judged = judged_steps(facts, device)
        exposed = sum(it.exposed_collectives_ms for it in judged) / len(judged)
        late_ms = facts.trace.late_wait_ms if facts.trace is not None else None
        exposed = max(0.0, exposed - (late_ms or 0.0))  # a late rank is no slow exchange
        if exposed < self.threshold.value * step.step_ms or not worth(facts, exposed):
            return None
        if device.thinned:
            return self.abstain("kernels may be missing from the recording, and what hid the exchange with them")
        computing = sum(it.computing_ms for it in judged) / len(judged)
        hides = min(exposed, computing)
        gain = Gain.of(step.step_ms, REACHED * hides, hides)
        most = device.collectives[0] if device.collectives else None
        summary, code = FIXES.get(most.name, OTHERWISE) if most else OTHERWISE
        return self.finding(
            title=(
                f"the device does nothing but exchange data for {ms(exposed)} ({percent(exposed / step.step_ms)}) of "
                f"each {ms(step.step_ms)} step"
            ),
            why=_why(device, most, len(device.steps), computing, late_ms),
            evidence={
                "exposed_ms": exposed,
                "collectives_ms": device.collectives_ms / len(device.steps),
                "other_kernels_ms": computing,
                "step_ms": step.step_ms,
                **({} if late_ms is None else {"waited_for_late_ranks_ms": late_ms}),
            },
            fix=Fix(summary, code),
            gain=gain,
            step_ms=step.step_ms,
        )


def _why(device: DeviceFacts, most: CollectiveFacts | None, steps: int, computing: float, late_ms: float | None) -> str:
    named = ""
    if most is not None:
        named = (
            f", {ms(most.exposed_ms / steps)} of it in {most.name.replace('_', '-')} ({most.count / steps:.0f} a step)"
        )
    return (
        f"Collectives take {ms(device.collectives_ms / steps)} a step, and no other kernel covers "
        f"{percent(device.collectives_exposed_ms / device.collectives_ms if device.collectives_ms else 0.0)} of that"
        f"{named}. Other kernels run for {ms(computing)}. "
        + (
            "A rank that comes late looks the same from one rank's recording."
            if late_ms is None
            else "No rank comes later than the others."
            if not late_ms
            else f"For {ms(late_ms)} more they only wait for ranks that come later, which is left out here."
        )
    )
