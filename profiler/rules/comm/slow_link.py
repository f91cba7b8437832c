"""comm/slow-link."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import SlowLink
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, percent, size

_MOST_NAMED = 6


class SlowLinkBetweenRanks(Rule):
    """Messages between some ranks take longer than the same messages between others.

    ## Why it is slow
    A collective runs at the pace of its slowest link, and what is built on it waits: one bad cable, a switch that is
    shared, a host whose network card works at a lower rate, or ranks placed so that they talk across hosts.

    ## Evidence
    Groups of ranks of one size (tensor parallel, sharding within a host, pipeline stages), or pairs that send to each
    other, exchange messages of the same kind and size. A call's time counts from when the last of its ranks has come.
    In one group or pair it takes at least `slower` times as long as in the typical other, beyond what the calls' own
    spread allows, and that comes to at least `threshold` of the step. If all slow ones have one host, or one rank,
    in common that no other has, it is named. Collectives of all ranks end together and show no single link: with only
    these nothing is said, nor of messages so small that the sender is done once its kernel holds them. Abstains where
    messages run on a device behind the host.

    ## Fix
    Look at that host's network and its neighbours' load, or place ranks that talk most on one host.

    ## Gain
    What the slow group's calls take beyond the typical group's, 60 % to 100 % of it.

    ## Reference
    NCCL user guide, "Troubleshooting": networking issues; `nccl-tests` between pairs of hosts.
    """

    id = "comm/slow-link"
    bottleneck = Bottleneck.COMMUNICATION
    threshold = Threshold(0.05, "share of the step that the slow messages take beyond the typical")
    slower = Threshold(1.5, "times the typical group's time, from which a group is slow")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether some ranks' messages are slow."""
        ranks, whole = facts.ranks, step_ms(facts)
        if ranks is None or whole <= 0:
            return None
        if "slow link" in ranks.withheld:
            return self.abstain(f"groups can't be compared: {ranks.withheld['slow link']}")
        slow = [link for link in ranks.slow_links if link.ms >= self.slower.value * link.typical_ms]
        cost = _cost(slow)
        if not slow or cost < self.threshold.value * whole or not worth(facts, cost):
            return None
        worst = slow[0]
        where = _where(worst)
        return self.finding(
            title=(
                f"{where} exchange {size(worst.bytes)} in {ms(worst.ms)}, "
                f"{worst.others} other {'pairs' if worst.pair else 'groups'} in {ms(worst.typical_ms)}: "
                f"{ms(cost)} ({percent(cost / whole)}) of each {ms(whole)} step"
            ),
            why=(
                "Each call is counted from when the last of its ranks has come, so that nothing of this is waiting for "
                f"a late one.{_common(slow)}"
            ),
            evidence={
                "slow_ms": worst.ms,
                "typical_ms": worst.typical_ms,
                "ratio": worst.ms / worst.typical_ms,
                "message_bytes": worst.bytes,
                "calls_per_step": worst.calls,
                "slow_links": float(len(slow)),
                "compared": float(worst.others),
                "excess_ms": cost,
                "step_ms": whole,
            },
            fix=Fix(
                f"Test {_suspect(worst)} by itself, and look at what else uses it; or place ranks that exchange most "
                "on one host."
            ),
            gain=Gain.of(whole, 0.6 * cost, cost),
            step_ms=whole,
        )


def _cost(slow: list[SlowLink]) -> float:
    """What the slowest group loses per step: groups run side by side, the messages of one after each other."""
    by_ranks: dict[tuple[int, ...], float] = {}
    for link in slow:
        who = tuple(sorted(link.ranks))
        by_ranks[who] = by_ranks.get(who, 0.0) + link.excess_ms
    return max(by_ranks.values(), default=0.0)


def _where(link: SlowLink) -> str:
    if link.pair:
        return f"ranks {link.ranks[0]} and {link.ranks[1]}"
    named = ", ".join(map(str, link.ranks[:_MOST_NAMED]))
    return f"the {len(link.ranks)} ranks {named}{', …' if len(link.ranks) > _MOST_NAMED else ''}"


def _suspect(link: SlowLink) -> str:
    if link.host is not None:
        return f"the network of host {link.host}"
    return f"the link of rank {link.rank}" if link.rank is not None else f"the link between {_where(link)}"


def _common(slow: list[SlowLink]) -> str:
    worst = slow[0]
    text = f" {len(slow)} kinds of message or groups are slow so." if len(slow) > 1 else ""
    if worst.rank is not None:
        text += f" All slow ones have rank {worst.rank} in common, and no other one has it."
    if worst.host is not None:
        text += f" All slow ones touch host {worst.host}, and no other one does."
    return text
