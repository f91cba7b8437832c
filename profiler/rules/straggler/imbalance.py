"""straggler/imbalance."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, percent

_STAGES = {
    "data_wait": "waiting for data",
    "forward": "forward",
    "other": "outside of every stage",
    "gap": "outside of the steps",
}


class Imbalance(Rule):
    """Ranks get batches of different cost, and in each step all wait for the one with the dearest.

    ## Why it is slow
    A step lasts as long as its slowest rank. With batches of random cost the slowest of many is nearly always slow,
    though on average all work the same.

    ## Evidence
    No single rank is late, the ranks that wait do so for at least `threshold` of the step, and the rank that comes
    last spends at least `explained` of that longer than the others in forward, in waiting for data or outside of
    stages. (Backward alone does not count: on shared cores it varies by the communication that runs beside it.)
    Abstains on a CPU of which fewer than `idle_cores` stood idle, where ranks may have waited for cores, and where
    ranks could not be compared.

    ## Fix
    Group items of similar length or cost, so that all ranks get alike in the same step.

    ## Gain
    What the ranks wait for each other; 30 % to 80 % of it.

    ## Reference
    Understanding Stragglers in Large Model Training Using What-if Analysis (Lin et al., 2025), on sequence length.
    """

    id = "straggler/imbalance"
    evidence = "training"
    bottleneck = Bottleneck.STRAGGLER
    threshold = Threshold(0.1, "share of the step that ranks wait for each other")
    idle_cores = Threshold(0.5, "idle cores on a CPU below which ranks may have waited for cores")
    explained = Threshold(0.25, "of that waiting, by which the last rank's own work is longer")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether ranks take turns in having too much to do."""
        ranks, whole = facts.ranks, step_ms(facts)
        if ranks is None or ranks.late is not None or whole <= 0:
            return None
        if ranks.turns_ms is None:
            return self.abstain(f"waiting can't be told from transfer: {ranks.withheld.get('waiting', '')}")
        if ranks.turns_ms < self.threshold.value * whole:
            return None
        idle = facts.machine.idle_cores
        if facts.machine.device == "cpu" and (idle is None or idle < self.idle_cores.value):
            return self.abstain("no core stood idle: which rank came last may have been a matter of who got a core")
        causes = [cause for cause in ranks.turns if cause.what in _STAGES]
        cause = causes[0] if causes else None
        if cause is None or cause.ms < self.explained.value * ranks.turns_ms or not worth(facts, ranks.turns_ms):
            return None
        waits_ms = ranks.turns_ms
        return self.finding(
            title=(
                f"Ranks take turns in being late: {ms(waits_ms)} ({percent(waits_ms / whole)}) of each "
                f"{ms(whole)} step is waiting for the one with most to do"
            ),
            why=(
                f"In each of the {ranks.compared_steps} steps compared another rank came last, after "
                f"{ms(cause.own_ms)} in {_STAGES[cause.what]} where the others needed {ms(cause.others_ms)}."
            ),
            evidence={
                "turns_ms": waits_ms,
                "cause_ms": cause.ms,
                "own_ms": cause.own_ms,
                "others_ms": cause.others_ms,
                "step_ms": whole,
                "ranks": float(ranks.world_size),
            },
            fix=Fix.at(
                facts.settings.training_loader.site if facts.settings.training_loader else None,
                "Group items of similar length, so that all ranks get batches of the same cost in the same step.",
                _CODE,
            ),
            gain=Gain.of(whole, 0.3 * waits_ms, 0.8 * waits_ms),
            step_ms=whole,
        )


_CODE = """\
# sort within windows of many batches, deal the sorted batches to the ranks in turn
order = torch.randperm(len(lengths), generator=generator)
window = batch_size * world_size * 50
order = torch.cat([part[lengths[part].argsort()] for part in order.split(window)])
batches = order.split(batch_size)[rank::world_size]"""
