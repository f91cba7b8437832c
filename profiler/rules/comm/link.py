"""What rules of communication ask of the link's model: what other messages would take."""

from __future__ import annotations

from profiler.analysis.rank_facts import LinkModel, RanksFacts
from profiler.rules.comm.exposed import GRADIENTS
from profiler.rules.phrases import ms

_BEYOND = 8  # times the largest message that was measured: larger ones are not predicted
_SURE = 0.35  # error of a prediction over the prediction, above which what was measured tells more


def link_of(ranks: RanksFacts, kind: str) -> LinkModel | None:
    """The model for a kind of collective, if the run's own messages gave one."""
    kind = "all_reduce" if kind == GRADIENTS else kind
    return next((link for link in ranks.links if link.kind == kind), None)


def predicted(link: LinkModel | None, messages: float, total_bytes: float) -> tuple[float, float] | None:
    """What so many messages would take, and its error; None where that is not known well enough."""
    if link is None or total_bytes > _BEYOND * link.largest_bytes * messages:
        return None
    expected, error = link.transfer_ms(messages, total_bytes), link.transfer_error_ms(messages, total_bytes)
    return (expected, error) if error <= _SURE * expected else None


def sentence_of(link: LinkModel) -> str:
    """The link in words."""
    return (
        f"Measured on this link, a call takes {ms(link.latency_ms)} (± {ms(link.latency_error_ms)}) before its bytes, "
        f"which pass at {link.gigabytes_per_s:.2g} GB/s (± {link.gigabytes_error:.2g})."
    )
