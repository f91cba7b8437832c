"""Spans of the run: startup, compilation, evaluation, checkpoints, and our own labelled cost.

In:  the span table, exact span totals, and when the process and its first step began.
Out: `SpanFacts`, longest in all first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.asides import WITH_GRAPH
from profiler.analysis.facts import SpanFacts
from profiler.analysis.folded import Folded
from profiler.analysis.site import Site

_MOST_INTERVALS = 200


def span_facts(
    folded: Folded, began_ns: int, first_step_ns: int | None, run_s: float, calls: Mapping[str, Site]
) -> tuple[SpanFacts, ...]:
    """All spans that were seen. Startup reaches from the process's start to its first step."""
    names = {label: name for name, label in lab.SPAN_LABELS.items()}
    columns = folded.spans.columns()
    found: list[SpanFacts] = []
    if first_step_ns is not None and first_step_ns > began_ns:
        startup_s = (first_step_ns - began_ns) / 1e9
        found.append(_span("startup", 1, startup_s, startup_s, run_s, None, ((0.0, startup_s),)))
    for label, (count, total_ns, longest_ns) in folded.span_totals.items():
        name = names.get(label, "")
        if not name or name == "startup":
            continue
        rows = np.flatnonzero(columns["label"] == label)
        graphs = columns["detail"][rows] if label == lab.EVALUATION and len(rows) else None
        if len(rows) > _MOST_INTERVALS:  # the longest tell most
            length = columns["end_ns"][rows] - columns["start_ns"][rows]
            rows = np.sort(rows[np.argsort(-length, kind="stable")[:_MOST_INTERVALS]])
        intervals = tuple(
            ((int(columns["start_ns"][row]) - began_ns) / 1e9, (int(columns["end_ns"][row]) - began_ns) / 1e9)
            for row in rows.tolist()
        )
        span = _span(name, count, total_ns / 1e9, longest_ns / 1e9, run_s, calls.get(name), intervals)
        if graphs is not None and bool((graphs > 0).any()):
            span = replace(span, with_graph=float(np.mean(graphs[graphs > 0] == WITH_GRAPH)))
        found.append(span)
    return tuple(sorted(found, key=lambda span: -span.total_s))


def _span(
    name: str,
    count: int,
    total_s: float,
    longest_s: float,
    run_s: float,
    site: Site | None,
    intervals_s: tuple[tuple[float, float], ...],
) -> SpanFacts:
    share = min(1.0, total_s / run_s) if run_s > 0 else 0.0
    return SpanFacts(name, count, total_s, longest_s, share, site, intervals_s)
