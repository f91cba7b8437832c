"""What rules of communication ask first: how much of the step is transfer that nothing hides."""

from __future__ import annotations

from dataclasses import dataclass, replace

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import RanksFacts, Reduction
from profiler.analysis.site import Site
from profiler.rules.evidence import step_ms
from profiler.rules.phrases import ms, percent, size

GRADIENTS = "gradients (DDP)"
_MOST = 0.9  # of the time in collectives, from which it is called that of gradients


@dataclass(frozen=True, slots=True)
class Exposed:
    """Transfer that the step waits for; waiting for late ranks is not in it."""

    step_ms: float
    network_ms: float
    ranks: RanksFacts
    of_gradients: bool = False  # of DistributedDataParallel's gradients alone, whatever else is exchanged

    @property
    def share(self) -> float:
        """Of the step."""
        return self.network_ms / self.step_ms

    @property
    def work_ms(self) -> float:
        """What is left of the step without communication."""
        return max(self.step_ms - (self.ranks.exposed_ms or 0.0), 0.0)


def exposed(facts: Facts, threshold: float) -> Exposed | str | None:
    """The transfer, where it is `threshold` of the step; why it can't be told; None where it is less."""
    ranks, whole = facts.ranks, step_ms(facts)
    if ranks is None or whole <= 0:
        return None
    if ranks.network_ms is None:
        return f"transfer can't be told from waiting: {ranks.withheld.get('waiting', 'it was not measured')}"
    found = Exposed(whole, ranks.network_ms, ranks)
    return found if found.share >= threshold else None


def gradients_exposed(facts: Facts, threshold: float) -> Exposed | str | None:
    """The same for the gradients that DistributedDataParallel reduces: their part of the time in collectives."""
    found = exposed(facts, threshold)
    if not isinstance(found, Exposed) or found.ranks.reduction is None:
        return found
    found = replace(found, network_ms=_gradients_part(found.ranks) * found.network_ms, of_gradients=True)
    return found if found.share >= threshold else None


def _gradients_part(ranks: RanksFacts) -> float:
    """Of the time in collectives, that of DistributedDataParallel's gradients."""
    whole = sum(ranks.kinds_ms.values())
    return ranks.kinds_ms.get(GRADIENTS, 0.0) / whole if whole > 0 else 1.0


def reduced(facts: Facts) -> Reduction | None:
    """DistributedDataParallel's own account, if the training uses it."""
    return facts.ranks.reduction if facts.ranks else None


def wrapped_at(facts: Facts) -> Site | None:
    """The user's line that wraps the model."""
    return facts.settings.sites.get("ddp")


def bandwidth(found: Exposed) -> str:
    """The rate at which gradients were exchanged, as a clause; "" where it was not measured."""
    row = next((row for row in found.ranks.collectives if row.kind == GRADIENTS and row.gigabytes_per_s), None)
    if row is None or row.gigabytes_per_s is None:
        return ""
    return f" at {row.gigabytes_per_s:.2g} GB/s over {found.ranks.backend or 'the network'}"


def sentence(found: Exposed) -> str:
    """What is exposed, with where it lies."""
    reduction, what, hidden = found.ranks.reduction, "tensors between the ranks", None
    if reduction is not None and (found.of_gradients or _gradients_part(found.ranks) >= _MOST):
        what = f"{size(reduction.parameter_bytes)} of gradients a step{bandwidth(found)}"
        hidden = found.ranks.hidden_ms
    also = f"; another {ms(hidden)} run behind the backward pass" if hidden else ""
    return f"Exchanging {what} holds the step up for {ms(found.network_ms)}, {percent(found.share)} of it{also}."


def evidence(found: Exposed) -> dict[str, float]:
    """The numbers that every finding on communication rests on."""
    ranks = found.ranks
    values = {
        "network_ms": found.network_ms,
        "exposed_ms": ranks.exposed_ms,
        "waiting_ms": ranks.waiting_ms,
        "hidden_ms": ranks.hidden_ms,
        "step_ms": found.step_ms,
        "ranks": float(ranks.world_size),
    }
    return {name: value for name, value in values.items() if value is not None}
