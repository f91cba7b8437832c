"""straggler/compute."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.phrases import ms, percent
from profiler.rules.straggler.late import Late, at_line, late

_UNEVEN = 1.08  # items of its batches against the others'
_OF_LATENESS = 0.5  # of what it comes late, that a want of a core has to explain
_WITHOUT_CORE = 0.1  # of the time that its training thread was ready to run, and twice what the others have


class LateByCompute(Rule):
    """One rank computes longer than the others, and they wait for it.

    ## Why it is slow
    A collective ends for nobody before the last rank has come: the job runs at the pace of its slowest rank.

    ## Evidence
    One rank comes last in the steps to which most of the waiting is due, the others wait for it for at least
    `threshold` of the step, and what it does longer than the typical other rank is forward, backward, the optimizer or
    copies to the device. If its batches hold more items, the split is uneven. If its training thread was ready to run
    and had no core for a tenth of the time, twice as long as the others', and for half of what it comes late, another
    program takes its cores; if NVML said of its device alone that heat or power slows it down, that does. If all of
    its computing is slower by one factor and none of these was seen, its items are longer, or the device or the host
    is slow. If it happens in less than half of the steps, the rank runs something there that the others don't.
    Abstains where ranks or their clocks could not be compared.

    ## Fix
    As the evidence says: balance the batches, or look at that rank's device and host.

    ## Gain
    What the others wait for it, at most what its computing is longer than theirs; 60 % to 100 % of it.

    ## Reference
    Understanding Stragglers in Large Model Training Using What-if Analysis (Lin et al., 2025).
    """

    id = "straggler/compute"
    evidence = "training"
    bottleneck = Bottleneck.STRAGGLER
    threshold = Threshold(0.05, "share of the step that the other ranks wait")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether a rank is late by its computing."""
        found = late(facts, "forward", "backward", "optimizer", "host_to_device", threshold=self.threshold.value)
        if not isinstance(found, Late):
            return self.abstain(found) if found else None
        rank, number = found.rank, found.rank.rank
        where = f"host {rank.host}" if rank.host else f"the host and device of rank {number}"
        if rank.items_ratio is not None and rank.items_ratio >= _UNEVEN:
            what = f" Its batches hold {percent(rank.items_ratio - 1)} more items than the others'."
            fix = "Give every rank batches of the same size: balance by length or cost, not by count of files."
        elif (lost := _without_core(found)) is not None:
            what = (
                f" Its training thread was ready to run and had no core for {percent(lost[0])} of the time, the "
                f"others' for {percent(lost[1])}: other programs, or more threads of its own than cores, take them."
            )
            fix = f"Look what else runs on {where}, and give each rank cores of its own."
        elif rank.throttled:
            what = " Its device slowed its clocks down, for heat or power; no other rank's device did."
            fix = f"Look at the cooling and the power limit of the device on {where} (`nvidia-smi -q -d PERFORMANCE`)."
        elif rank.uniformly_slower is not None:
            items = "not more" if rank.items_ratio is not None else "how many its batches hold was not seen"
            what = (
                f" All of its computing takes {rank.uniformly_slower:.2f} times as long as elsewhere: its items are "
                f"longer or more ({items}), or its device or cores are slower, hotter, or shared."
            )
            fix = f"Compare its batches with the others'; if they are alike, look at {where}: clocks, heat, load."
        elif found.now_and_then:
            share = percent(rank.cause_steps or 0.0)
            what = f" It does so in {share} of its steps, not in each: something runs there that only this rank runs."
            fix = (
                f"Look what only rank {number} runs now and then, an evaluation or a sample: run it on all ranks, "
                "less often, or after the training."
            )
        elif len(found.causes) > 1:
            longer = " and ".join(f"{cause.what} by {ms(cause.ms)}" for cause in found.causes)
            what = f" Its work takes longer in several parts, and not by one factor: {longer}."
            fix = f"Find out what rank {number} computes that the others don't: longer sequences, a larger shard."
        else:
            what = " Only this part of its work is longer, so it is what the rank computes and not how fast."
            fix = f"Find out what rank {number} computes that the others don't: longer sequences, a larger shard."
        return self.finding(
            title=found.title,
            why=f"{found.steadiness}{what}{at_line(found)}",
            evidence={
                **found.evidence,
                **({"slower_factor": rank.uniformly_slower} if rank.uniformly_slower is not None else {}),
                **({"items_ratio": rank.items_ratio} if rank.items_ratio is not None else {}),
                **({"without_core_share": rank.without_core} if rank.without_core is not None else {}),
            },
            fix=Fix.at(rank.line.site if rank.line else None, fix),
            gain=found.gain,
            step_ms=found.step_ms,
        )


def _without_core(found: Late) -> tuple[float, float] | None:
    """How much of the time its thread had no core, and the others'; None where that is not why it comes late."""
    mine, others = found.rank.without_core, found.rank.others_without_core
    if mine is None or others is None or mine < max(_WITHOUT_CORE, 2 * others):
        return None
    if (mine - others) * found.step_ms < _OF_LATENESS * found.rank.late_ms:
        return None
    return mine, others
