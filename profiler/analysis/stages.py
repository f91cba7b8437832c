"""Each stage over the measured steps.

In:  `Measured`, the folded record, notes of the user's lines that enter stages, and what the sampler saw.
Out: `StageFacts` by name, and why the others were not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from profiler.analysis import labels as lab
from profiler.analysis import noise
from profiler.analysis.facts import LineTime, RootSettings, StageFacts
from profiler.analysis.folded import Folded
from profiler.analysis.measured import NS_PER_MS, Measured
from profiler.analysis.site import Site
from profiler.record.vocabulary import STAGE_ORDER, STAGES, DataWait, Optimizer

Lines = Mapping[str, Sequence[LineTime]]

_MAIN_DETAIL = {"optimizer": int(Optimizer.STEP), "data_wait": int(DataWait.NEXT)}
_NUMBERS = {stage: number for number, stage in STAGES.items()}
_ABSENT = {
    "data_wait": "no DataLoader fed the training loop",
    "host_to_device": "no copy of a batch to the device was seen",
    "forward": "no forward of a module was seen",
    "backward": "no backward pass was seen",
    "optimizer": "no optimizer's step was seen",
    "communication": "communication between ranks was not recorded",
}


def stage_facts(
    measured: Measured, folded: Folded, calls: Mapping[str, Site], lines: Lines, on_cpu: bool, one_rank: bool
) -> tuple[dict[str, StageFacts], dict[str, str]]:
    """Facts of the stages that were measured, and reasons for the others.

    A CPU run copies nothing to a device and one rank talks to nobody: there 0 is a fact.
    """
    stages: dict[str, StageFacts] = {}
    absent: dict[str, str] = {}
    for number, name in enumerate(STAGE_ORDER):
        values = measured.stage_ns(name)
        known_zero = (name == "host_to_device" and on_cpu) or (name == "communication" and one_rank)
        if name == "other" or known_zero or bool(values.any()) or folded.calls[number] > 0:
            stages[name] = _one(measured, folded, name, calls.get(name), tuple(lines.get(name, ())))
        else:
            absent[name] = _ABSENT[name]
    return stages, absent


def _one(measured: Measured, folded: Folded, name: str, call: Site | None, lines: tuple[LineTime, ...]) -> StageFacts:
    times = measured.stage_ns(name)[measured.rows] / NS_PER_MS
    weights = measured.weights
    mean = measured.mean(times)
    return StageFacts(
        name=name,
        median_ms=noise.median(times, weights),
        mean_ms=mean,
        p5_ms=noise.quantile(times, weights, 0.05),
        p95_ms=noise.quantile(times, weights, 0.95),
        share=mean / measured.mean(measured.wall_ms()),
        calls_per_step=float(folded.calls[STAGE_ORDER.index(name)]) / measured.count,
        call=call,
        lines=lines,
        parts_ms=_parts(measured, folded, name),
    )


def _parts(measured: Measured, folded: Folded, stage: str) -> dict[str, float]:
    """Mean milliseconds per step of the stage's named parts."""
    parts: dict[str, float] = {}
    for label in lab.labels_of(stage):
        name = lab.PARTS[label][1] if label < lab.FIRST_USER else folded.user_parts.get(label, "")
        if name and f"part_{label}" in measured.columns:
            parts[name] = parts.get(name, 0.0) + measured.mean(measured.part_ms(label))
    return parts


def call_sites(notes: Sequence[Mapping[str, Any]], roots: Sequence[RootSettings]) -> dict[str, Site]:
    """The user's line that enters each stage or span: that of its main call, else the first one noted.

    The largest root module says where forward is called.
    """
    found: dict[str, Site] = {}
    for root in sorted(roots, key=lambda root: root.parameters):
        if root.site is not None and not root.is_loss:
            found["forward"] = root.site
    noted: set[str] = set()
    for note in notes:
        stage, site = str(note.get("stage")), site_of(note)
        if site is not None and (stage not in noted or note.get("detail") == _MAIN_DETAIL.get(stage)):
            found[stage] = site
            noted.add(stage)
    return found


def with_part_calls(stages: Mapping[str, StageFacts], notes: Sequence[Mapping[str, Any]]) -> dict[str, StageFacts]:
    """The stages, each with the user's lines that were noted first for its parts."""
    found: dict[str, dict[str, Site]] = {}
    for note in notes:
        number, detail, site = _NUMBERS.get(str(note.get("stage"))), note.get("detail"), site_of(note)
        if site is not None and number is not None and isinstance(detail, int) and 0 <= detail < len(lab.BASE):
            stage, part = lab.PARTS[lab.BASE[number, detail]]
            found.setdefault(stage, {}).setdefault(part, site)
    return {name: replace(stage, part_calls=found.get(name, {})) for name, stage in stages.items()}


def site_of(note: Mapping[str, Any]) -> Site | None:
    """The place that a note names, if it names one."""
    file, line = note.get("file"), note.get("line")
    if not isinstance(file, str) or not isinstance(line, int):
        return None
    return Site(file, line, str(note.get("function") or ""))
