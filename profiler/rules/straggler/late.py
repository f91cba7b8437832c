"""What rules of stragglers share: the late rank, where it matters, and the sentences about it."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import Cause, LateRank, RanksFacts
from profiler.rules.base import WIDEST_RANGE, Gain
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import ms, percent

_STEADY = 0.5  # of the steps, in which what takes a rank longer is its way and not an event
THRESHOLD = 0.05  # of the step that the others wait
_MOST_NAMED = 6
_DOES = {
    "data_wait": "waits for its batches",
    "host_to_device": "copies its batches to the device",
    "forward": "computes forward",
    "backward": "computes backward",
    "optimizer": "updates parameters",
    "other": "runs outside of every stage",
    "gap": "is busy outside of its steps",
    "gc": "collects garbage",
}


@dataclass(frozen=True, slots=True)
class Late:
    """A rank that the others wait for long enough to speak of it."""

    step_ms: float
    ranks: RanksFacts
    rank: LateRank
    causes: tuple[Cause, ...]  # those that are asked for, longest first

    @property
    def cause(self) -> Cause:
        """The longest."""
        return self.causes[0]

    @property
    def now_and_then(self) -> bool:
        """Whether it happens in some steps only."""
        return self.rank.cause_steps is not None and self.rank.cause_steps < _STEADY

    @property
    def gain(self) -> Gain:
        """What the others would not wait: at most what its causes take longer, 60 % of it for sure.

        Where that is too wide a range, what was measured stays in it: the wait as a whole.
        """
        saves_ms = self.saves_ms
        least_ms = max(0.6 * saves_ms, self.step_ms - WIDEST_RANGE * (self.step_ms - saves_ms))
        return Gain.of(self.step_ms, least_ms, saves_ms)

    @property
    def saves_ms(self) -> float:
        """By how much the step ends earlier once those that are named come in time."""
        rank = self.rank
        return min(rank.late_ms if rank.saves_ms is None else rank.saves_ms, sum(cause.ms for cause in self.causes))

    @property
    def who(self) -> str:
        """The rank, or the host with its ranks."""
        if self.rank.host is None:
            return f"rank {self.rank.rank}"
        return f"host {self.rank.host} (its {self.rank.host_ranks} ranks, like rank {self.rank.rank})"

    @property
    def title(self) -> str:
        """Who is late, and for what."""
        return (
            f"{self.who} comes {ms(self.rank.late_ms)} late to {self._steps} and the others "
            f"wait for it: it {_DOES[self.cause.what]} for {ms(self.cause.own_ms)}, they for {ms(self.cause.others_ms)}"
        )

    @property
    def _steps(self) -> str:
        return f"a {ms(self.step_ms)} step on average" if self.now_and_then else f"each {ms(self.step_ms)} step"

    @property
    def steadiness(self) -> str:
        """How often, and that it is not the network."""
        ranks = self.ranks
        network = f"; the transfer itself takes {ms(ranks.network_ms)}" if ranks.network_ms is not None else ""
        return (
            f"It came last in {percent(self.rank.share_of_steps)} of the {ranks.compared_steps} steps compared, and "
            f"{percent(self.rank.share_of_waiting)} of all waiting for each other is due to it{network}.{self._also}"
        )

    @property
    def _also(self) -> str:
        """Who comes late beside it, and what that means for curing it alone; "" for nobody."""
        rank = self.rank
        if not rank.also:
            return ""
        named = [
            f"{each.rank} ({ms(each.late_ms)}{f': it {_DOES[each.cause.what]} longer' if each.cause else ''})"
            for each in rank.also[:_MOST_NAMED]
        ]
        more = rank.also_count - len(named)
        text = f" Late too: {'rank' if rank.also_count == 1 else 'ranks'} {', '.join(named)}"
        text += f" and {more} others." if more > 0 else "."
        if rank.alone_ms is not None and rank.alone_ms < 0.8 * self.saves_ms:
            text += f" Cured alone, {self.who} would save {ms(rank.alone_ms)} of the {ms(self.saves_ms)}."
        return text

    @property
    def evidence(self) -> dict[str, float]:
        """The numbers of the finding."""
        values = {
            "late_rank": float(self.rank.rank),
            "late_ms": self.rank.late_ms,
            "late_ranks": float(1 + self.rank.also_count) if self.rank.also_count else None,
            "alone_ms": self.rank.alone_ms,
            "late_steps_share": self.rank.share_of_steps,
            "cause_ms": self.cause.ms,
            "own_ms": self.cause.own_ms,
            "others_ms": self.cause.others_ms,
            "network_ms": self.ranks.network_ms,
            "exposed_ms": self.ranks.exposed_ms,
            "step_ms": self.step_ms,
        }
        return {name: value for name, value in values.items() if value is not None}


def late(facts: Facts, *causes: str, threshold: float = THRESHOLD) -> Late | str | None:
    """The late rank, if one of `causes` makes it late; why none can be named; None where nobody waits much."""
    ranks, whole = facts.ranks, step_ms(facts)
    if ranks is None or whole <= 0:
        return None
    if ranks.waiting_ms is None:
        return f"waiting can't be told from transfer: {ranks.withheld.get('waiting', 'it was not measured')}"
    rank = ranks.late
    if rank is None:
        why = ranks.withheld.get("late rank", "")
        return why if "clocks" in why and ranks.waiting_ms >= threshold * whole else None
    if rank.late_ms < threshold * whole or not rank.causes or rank.causes[0].what not in causes:
        return None
    found = Late(whole, ranks, rank, tuple(cause for cause in rank.causes if cause.what in causes))
    return found if worth(facts, found.saves_ms) else None


def at_line(found: Late) -> str:
    """The line of the user's that takes the rank longer, as a sentence; "" where none is known."""
    line = found.rank.line
    if line is None:
        return ""
    text = f" ({line.source.strip()})" if line.source.strip() else ""
    return f" On that rank {line.site.file.rsplit('/', 1)[-1]}:{line.site.line}{text} takes {ms(line.ms)} a step."
