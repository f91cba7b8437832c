"""The user's lines, as the sampler saw them.

In:  samples (site, stage label, step) and the notes that say which site is where.
Out: `LineTime`s: by stage over the measured steps, or per batch for the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.asides import Columns
from profiler.analysis.facts import LineTime
from profiler.analysis.measured import Measured
from profiler.analysis.site import Site
from profiler.analysis.stack import Ints
from profiler.analysis.stages import site_of
from profiler.record.vocabulary import STAGE_ORDER

ReadLine = Callable[[str, int], str]  # (file, line) → its text, "" where it can't be read
Places = Mapping[int, tuple[Site, str]]  # number of a site → the line, and the function that ran there

_MOST_LINES = 20  # of a stage: every function that ran under them is kept, so that a line's time is whole
_MOST_PLACES = 400


def places_of(notes: Sequence[Mapping[str, Any]]) -> dict[int, tuple[Site, str]]:
    """Where each numbered site is."""
    found: dict[int, tuple[Site, str]] = {}
    for note in notes:
        site = site_of(note)
        if site is not None and isinstance(note.get("id"), int):
            found[note["id"]] = (site, str(note.get("leaf") or ""))
    return found


def lines_by_stage(
    samples: Columns, measured: Measured, places: Places, read_line: ReadLine
) -> dict[str, tuple[LineTime, ...]]:
    """The lines of each stage, most time first; samples of steps that are not measured are left out."""
    if not samples:
        return {}
    counted = np.isin(samples["step"], measured.index) & (samples["label"] < lab.LABELS)
    if int(measured.columns["weight"].max()) > 1:  # of thinned steps all count, but for the warm-up
        counted = (samples["step"] >= measured.warmup) & (samples["label"] < lab.LABELS)
    stage = lab.STAGE_OF[np.minimum(samples["label"], lab.LABELS - 1)]
    found: dict[str, tuple[LineTime, ...]] = {}
    for number, name in enumerate(STAGE_ORDER):
        chosen = counted & (stage == number)
        if bool(chosen.any()):
            mean_ms = measured.mean(measured.stage_ns(name)[measured.rows] / 1e6)
            found[name] = rank_lines(samples["site"][chosen], samples["weight"][chosen], mean_ms, places, read_line)
    return found


def span_sites(samples: Columns, places: Places) -> dict[str, Site]:
    """The line at which each span was seen most often, by the span's name."""
    found: dict[str, Site] = {}
    for name, label in lab.SPAN_LABELS.items() if samples else ():
        seen = samples["site"][(samples["label"] == label) & np.isin(samples["site"], list(places))]
        if len(seen):
            sites, counts = np.unique(seen, return_counts=True)
            found[name] = places[int(sites[np.argmax(counts)])][0]
    return found


def rank_lines(
    sites: Ints, weights: Ints, whole_ms: float, places: Places, read_line: ReadLine
) -> tuple[LineTime, ...]:
    """Lines by their share of these samples, most first. Samples of unknown sites count to the whole."""
    total = int(weights.sum())
    by_place: dict[tuple[Site, str], int] = {}
    for number in np.unique(sites).tolist():
        if number in places:
            place = places[number]
            by_place[place] = by_place.get(place, 0) + int(weights[sites == number].sum())
    by_line: dict[tuple[str, int], int] = {}
    for (site, _), count in by_place.items():
        by_line[site.file, site.line] = by_line.get((site.file, site.line), 0) + count
    kept = set(sorted(by_line, key=lambda line: (-by_line[line], line))[:_MOST_LINES])
    ranked = sorted(by_place.items(), key=lambda item: (-item[1], item[0][0].file, item[0][0].line, item[0][1]))
    return tuple(
        LineTime(
            site=site,
            leaf=leaf,
            samples=count,
            share_of_stage=count / total,
            ms_per_step=whole_ms * count / total,
            source=read_line(site.file, site.line).rstrip("\n"),
        )
        for (site, leaf), count in [it for it in ranked if (it[0][0].file, it[0][0].line) in kept][:_MOST_PLACES]
    )
