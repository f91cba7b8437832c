"""The steps of the run: how long, how steady, and which stood out.

In:  `Measured`.
Out: `StepFacts`.
"""

from __future__ import annotations

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis import noise
from profiler.analysis.block import Happened
from profiler.analysis.facts import OutlierStep, StepFacts
from profiler.analysis.measured import NS_PER_MS, Measured
from profiler.record.vocabulary import STAGE_ORDER

_MOST_OUTLIERS = 50
_GC_SHARE = 0.3  # of what the step grew by: the collection is named as its cause


def step_facts(measured: Measured, explicit: bool) -> StepFacts:
    """Statistics over the measured steps."""
    walls, weights = measured.wall_ms(), measured.weights
    limit = noise.outlier_limit(walls, weights)
    starts, start_ms = _epoch_starts(measured)
    return StepFacts(
        count=measured.count,
        warmup=measured.warmup,
        measured=measured.steps,
        median_ms=noise.median(walls, weights),
        mean_ms=measured.mean(walls),
        p5_ms=noise.quantile(walls, weights, 0.05),
        p95_ms=noise.quantile(walls, weights, 0.95),
        noise_ms=noise.median_noise(walls, weights),
        micro_batches=measured.mean(measured.column("micro_batches")[measured.rows]),
        batches=measured.mean(measured.column("batches")[measured.rows]),
        drift_share=noise.drift_share(walls, weights),
        outliers=_outliers(measured, limit),
        outlier_share=float(weights[walls > limit].sum() / weights.sum()),
        explicit=explicit,
        epoch_starts=starts,
        epoch_start_ms=start_ms,
        outlier_ms=_outlier_ms(measured, limit),
    )


def _epoch_starts(measured: Measured) -> tuple[int, float | None]:
    """Steps that began an epoch, and how much longer they waited for their batch than the others."""
    began = (measured.column("flags")[measured.rows] & int(Happened.ITERATOR)) != 0
    part = measured.columns.get(f"part_{lab.NEXT}")
    if part is None or not began.any() or began.all():
        return int(measured.weights[began].sum()), None
    waits, weights = part[measured.rows] / NS_PER_MS, measured.weights
    first, rest = (float(np.average(waits[of], weights=weights[of])) for of in (began, ~began))
    return int(weights[began].sum()), first - rest


def _outlier_ms(measured: Measured, limit_ms: float) -> dict[str, float]:
    """Time beyond the median that each cause's outliers took, spread over all measured steps; most first."""
    walls, weights = measured.wall_ms(), measured.weights
    median, total = noise.median(walls, weights), float(weights.sum())
    rows = np.flatnonzero(measured.rows)
    found: dict[str, float] = {}
    for number in np.flatnonzero(walls > limit_ms).tolist():
        beyond = float(walls[number]) - median
        cause = _cause(measured, int(rows[number]), beyond) or ""
        found[cause] = found.get(cause, 0.0) + beyond * float(weights[number]) / total
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _outliers(measured: Measured, limit_ms: float) -> tuple[OutlierStep, ...]:
    """The longest of the steps beyond the limit, in the order of the run."""
    rows = np.flatnonzero(measured.rows)
    walls = measured.wall_ms()
    beyond = np.flatnonzero(walls > limit_ms)
    longest = np.sort(beyond[np.argsort(-walls[beyond], kind="stable")][:_MOST_OUTLIERS])
    if len(longest) == 0:
        return ()
    stages = {name: measured.stage_ns(name) / NS_PER_MS for name in STAGE_ORDER}
    usual = {name: noise.median(values[measured.rows], measured.weights) for name, values in stages.items()}
    found = []
    for number in longest.tolist():
        row = int(rows[number])
        grew = {name: float(values[row]) - usual[name] for name, values in stages.items()}
        stage = max(grew, key=lambda name: grew[name])
        found.append(
            OutlierStep(
                index=int(measured.columns["index"][row]),
                start_s=(int(measured.columns["start_ns"][row]) - measured.first_ns) / 1e9,
                wall_ms=float(walls[number]),
                stage=stage,
                grew_ms=grew[stage],
                cause=_cause(measured, row, sum(grew.values())),
            )
        )
    return tuple(found)


def _cause(measured: Measured, row: int, grew_ms: float) -> str | None:
    """What the record shows to have happened in the step, or right before it."""
    flags = Happened(int(measured.column("flags")[row]))
    if float(measured.column("gc_ns")[row]) / NS_PER_MS >= _GC_SHARE * grew_ms:
        return "garbage collection"
    for flag, cause in (
        (Happened.ITERATOR, "epoch boundary"),
        (Happened.COMPILED, "compilation"),
        (Happened.AFTER_CHECKPOINT, "after a checkpoint"),
        (Happened.AFTER_EVALUATION, "after an evaluation"),
        (Happened.RAISED, "an exception"),
    ):
        if flag in flags:
            return cause
    return None
