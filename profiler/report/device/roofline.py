"""What the report says of the operators' work beside what the device can do.

In:  `Facts`.
Out: `RooflineSection`: a sentence and rows; None where no shapes were recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.facts import Facts
from profiler.analysis.roofline_facts import SIZE, OperatorWork, Peaks, Roofline
from profiler.report.device import names
from profiler.report.wording import share, significant

_LEAST_SHARE = 0.002  # of the first row's time


@dataclass(frozen=True, slots=True)
class WorkRow:
    """One operator with one shape; a cell that was not measured is empty."""

    operator: str
    shapes: str
    format: str
    count: int
    ms: float
    tflops: str
    gbs: str
    intensity: str
    bound: str
    roof: str


@dataclass(frozen=True, slots=True)
class RooflineSection:
    """All of it."""

    sentences: tuple[str, ...]
    rows: tuple[WorkRow, ...]
    bounds: bool  # any row's limit is known


def roofline_section(facts: Facts) -> RooflineSection | None:
    """The table of the operators' work."""
    found = facts.roofline
    if found is None or not found.rows:
        return None
    rows = tuple(_row(row) for row in found.rows if row.ms >= _LEAST_SHARE * found.rows[0].ms)
    return RooflineSection(_sentences(found), rows, any(row.bound for row in rows))


def _sentences(found: Roofline) -> tuple[str, ...]:
    what = "kernel time" if found.on_device else "the operators' time"
    first = (
        f"Arithmetic and bytes of the operators by the shapes that were recorded; they tell of "
        f"{share(found.told_share)} of {what}. Bytes are the least that an operator can move."
    )
    if found.peaks is None:
        why = "the device's peaks are not known" if found.on_device else "peaks of a CPU are in no catalogue"
        return (first, f"Not measured: what limits them, since {why}.")
    return (first, _peaks(found.peaks))


def _peaks(peaks: Peaks) -> str:
    formats = ", ".join(f"{significant(rate / 1e12)} TFLOP/s {form}" for form, rate in peaks.flops_per_s.items())
    memory = f"{significant(peaks.bytes_per_s / 1e9)} GB/s" if peaks.bytes_per_s else "bandwidth not known"
    return (
        f"Peaks ({peaks.source}): {formats}; {memory}. An operator that does little arithmetic for each byte is "
        "limited by the memory: fusing it with its neighbours helps, another number format as far as it is smaller."
    )


def _row(row: OperatorWork) -> WorkRow:
    return WorkRow(
        operator=names.kernel(row.operator),
        shapes=" · ".join("×".join(map(str, shape)) for shape in row.shapes),
        format=row.number_format or "",
        count=row.count,
        ms=row.ms,
        tflops="" if row.tflops is None else significant(row.tflops),
        gbs="" if row.gbs is None else significant(row.gbs),
        intensity="" if row.intensity is None else significant(row.intensity),
        bound="its small size" if row.bound == SIZE else row.bound or "",
        roof="" if row.roof_share is None else share(row.roof_share),
    )
