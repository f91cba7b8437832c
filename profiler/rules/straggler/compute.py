"""straggler/compute."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import LateRank
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.phrases import percent
from profiler.rules.straggler.late import Late, at_line, late

_UNEVEN = 1.08  # items of its batches against the others'
_WITHOUT_CORE = 0.1  # of the time that its training thread was ready to run, and twice what the others have


class LateByCompute(Rule):
    """One rank computes longer than the others, and they wait for it.

    ## Why it is slow
    A collective ends for nobody before the last rank has come: the job runs at the pace of its slowest rank.

    ## Evidence
    One rank comes last in the steps to which most of the waiting is due, the others wait for it for at least
    `threshold` of the step, and what it does longer than the typical other rank is forward, backward, the optimizer
    or copies to the device. If its batches hold more items, the split is uneven. If its training thread was ready to
    run and had no core for a tenth of the time, and twice as long as the others', another program takes its cores; if
    NVML said of its device alone that heat or power slows it down, that does. If all of its computing is slower by one
    factor and none of these was seen, its items are longer, or the device or the host is slow. Abstains where ranks or
    their clocks could not be compared.

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
        elif (lost := _without_core(rank)) is not None:
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


def _without_core(rank: LateRank) -> tuple[float, float] | None:
    """How much of the time its thread had no core, and the others'; None where that does not set it apart."""
    mine, others = rank.without_core, rank.others_without_core
    if mine is None or others is None or mine < max(_WITHOUT_CORE, 2 * others):
        return None
    return mine, others
