"""What the link between ranks takes for a message of any size, from the run's own collectives.

In:  `RankFacts` of the compared ranks.
Out: a `LinkModel` for each kind of collective, or why there is none.

Of a call that blocked each rank, the shortest of these times is what it took once all had come. The median over calls
of one size is that size's time, and through the times of several sizes a line t = a + b·x is fitted, x being the bytes
that a rank of a ring sends. Errors are taken relative to the time, since times of small and of large messages
vary in proportion, and a point far off the line counts less (Huber's weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler.analysis.rank_facts import Exchange, LinkModel, RankFacts, Reduction, wire_factor
from profiler.analysis.ranks.calls import median_transfer
from profiler.analysis.ranks.matched import Floats
from profiler.record.vocabulary import COLLECTIVES, TOGETHER, Communication

_SPAN = 8.0  # largest message over smallest
_WIDEST = 0.5  # error of the rate over the rate
_LEAST_DOUBT = 0.05  # of a point's time, whatever the fit says
_MOST_HIDDEN = 0.5  # of DDP's reduction: where more ran behind backward its time is no transfer's
_HUBER = 1.345
_ROUNDS = 20
_T95 = {1: 12.7, 2: 4.3, 3: 3.2, 4: 2.8, 5: 2.6, 6: 2.4, 7: 2.4, 8: 2.3}  # Student's t by degrees of freedom
_WITHOUT_BYTES = (COLLECTIVES[Communication.BARRIER], COLLECTIVES[Communication.OBJECTS])
_KINDS = {name for kind, name in COLLECTIVES.items() if kind <= TOGETHER and name not in _WITHOUT_BYTES}
_ALL_REDUCE = COLLECTIVES[Communication.ALL_REDUCE]
_GRADIENTS = COLLECTIVES[Communication.GRADIENTS]


@dataclass(frozen=True, slots=True)
class Point:
    """Messages of one size, and what one of them takes."""

    bytes: float
    ms: float
    doubt: float  # standard error, as a share of the time


@dataclass(frozen=True, slots=True)
class Line:
    """t = latency + wire bytes x per_byte, ms, with half widths of the 95 % intervals."""

    latency: float
    latency_error: float
    per_byte: float
    per_byte_error: float


def links(ranks: Sequence[RankFacts]) -> tuple[LinkModel, ...] | str:
    """A model for each kind that shows one; the reason of the kind with most sizes where none does."""
    by_key = _points(ranks)
    if not by_key:
        return "no collective of all ranks blocked its callers often enough to be timed"
    found, reasons = [], []
    for (kind, backend, size), points in sorted(by_key.items(), key=lambda item: -len(item[1])):
        model = _model(kind, backend, size, points)
        if isinstance(model, LinkModel):
            found.append(model)
        else:
            reasons.append(model)
    return tuple(found) or reasons[0]


def _points(ranks: Sequence[RankFacts]) -> dict[tuple[str, str, int], list[Point]]:
    """Sizes of messages by kind, backend and size of the group; groups of all ranks only."""
    seen: dict[tuple[str, str, int], dict[tuple[int, str | None], list[Exchange]]] = {}
    for rank in ranks:
        for each in rank.exchanges:
            if each.kind in _KINDS and each.bytes > 0 and each.group_size == rank.world_size:
                sizes = seen.setdefault((each.kind, each.backend, each.group_size), {})
                sizes.setdefault((int(each.bytes).bit_length(), each.dtype), []).append(each)
    found: dict[tuple[str, str, int], list[Point]] = {}
    for key, sizes in seen.items():
        points = [_point(exchanges) for exchanges in sizes.values() if len(exchanges) == len(ranks)]
        if any(points):
            found[key] = [point for point in points if point is not None]
    reduced = _reduced(ranks)
    if reduced is not None:
        found.setdefault((_ALL_REDUCE, ranks[0].backend, ranks[0].world_size), []).append(reduced)
    return found


def _point(exchanges: Sequence[Exchange]) -> Point | None:
    """The median transfer of one size, and how sure it is."""
    taken = median_transfer(exchanges)
    if taken is None or taken[0] <= 0:
        return None
    middle, error = taken
    return Point(float(np.mean([each.bytes for each in exchanges])), middle, error / middle)


def _reduced(ranks: Sequence[RankFacts]) -> Point | None:
    """DDP's bucket, by the reducer's own times where little of the reduction ran behind the backward pass."""
    usable = [each for each in (rank.reduction for rank in ranks) if each is not None and _is_transfer(each)]
    if not usable:
        return None
    one = min(usable, key=lambda each: each.total_ms or 0.0)
    count = max(len(one.bucket_bytes), 1)
    hidden = (one.hidden_ms or 0.0) / (one.total_ms or 1.0)
    return Point(one.parameter_bytes / count, (one.total_ms or 0.0) / count, hidden)


def _is_transfer(reduction: Reduction) -> bool:
    total, hidden = reduction.total_ms, reduction.hidden_ms
    return bool(total) and hidden is not None and hidden <= _MOST_HIDDEN * (total or 0.0) and not reduction.comm_hook


def _model(kind: str, backend: str, size: int, points: Sequence[Point]) -> LinkModel | str:
    smallest, largest = min(point.bytes for point in points), max(point.bytes for point in points)
    if largest < _SPAN * smallest:
        return "messages of one size only, or nearly: latency and rate can't be told apart"
    wire = np.array([point.bytes for point in points]) * wire_factor(kind, size)
    line = fit(wire, np.array([point.ms for point in points]), np.array([point.doubt for point in points]))
    if line is None or line.per_byte_error > _WIDEST * line.per_byte:
        return "the times of messages do not grow with their size clearly enough to tell a rate"
    rate = 1 / line.per_byte / 1e6
    return LinkModel(
        kind=kind,
        backend=backend,
        ranks=size,
        latency_ms=line.latency,
        latency_error_ms=line.latency_error,
        gigabytes_per_s=rate,
        gigabytes_error=rate * line.per_byte_error / line.per_byte,
        smallest_bytes=smallest,
        largest_bytes=largest,
        sizes=len(points),
    )


def fit(wire: Floats, times: Floats, doubts: Floats) -> Line | None:
    """The line through times of messages, errors relative to the time; None where no rate comes out of it.

    With two points the line passes through both, and its error is that of the points.
    """
    if len(times) < 2:
        return None
    scale = np.hypot(np.maximum(doubts, 0.0), _LEAST_DOUBT) * times
    weights = np.ones(len(times))
    latency = slope = 0.0
    for _ in range(_ROUNDS):
        latency, slope = _least_squares(wire, times, weights / scale**2)
        off = np.abs(latency + slope * wire - times) / scale
        middle = max(1.4826 * float(np.median(off)), 1e-9)
        updated = np.minimum(1.0, _HUBER * middle / np.maximum(off, 1e-12))
        if np.allclose(updated, weights, atol=1e-4):
            break
        weights = updated
    if slope <= 0:
        return None
    free = max(len(times) - 2, 0)
    residual = (latency + slope * wire - times) / scale
    spread = float(np.sqrt(np.sum(weights * residual**2) / free)) if free else 1.0
    heavier = max(1.0, spread) * (_T95.get(free, 2.2) if free and spread > 1 else 2.0)
    certain = weights / scale**2
    total, first, second = certain.sum(), (certain * wire).sum(), (certain * wire**2).sum()
    rest = total * second - first**2
    if rest <= 0:
        return None
    return Line(latency, float(np.sqrt(second / rest)) * heavier, slope, float(np.sqrt(total / rest)) * heavier)


def _least_squares(x: Floats, y: Floats, weights: Floats) -> tuple[float, float]:
    """Weighted least squares with a latency that is not below 0."""
    total, mean_x, mean_y = weights.sum(), np.average(x, weights=weights), np.average(y, weights=weights)
    variance = float((weights * (x - mean_x) ** 2).sum() / total)
    if variance <= 0:
        return float(mean_y), 0.0
    slope = float((weights * (x - mean_x) * (y - mean_y)).sum() / total / variance)
    latency = float(mean_y - slope * mean_x)
    if latency >= 0:
        return latency, slope
    return 0.0, float((weights * x * y).sum() / (weights * x * x).sum())
