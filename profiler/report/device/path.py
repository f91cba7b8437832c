"""What the report says of the critical path of a step.

In:  `Facts`.
Out: `PathSection`: sentences, the pieces of a bar and rows; None where no path was found.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.facts import Facts
from profiler.analysis.path_facts import CriticalPath, HostPart
from profiler.record.vocabulary import STAGE_ORDER
from profiler.report import palette, wording
from profiler.report.device import names
from profiler.report.part import Part
from profiler.report.wording import ms, share

MOST_ROWS = 12
_LEAST_SHARE = 0.01  # of the step, of a row
_WORTH = 0.0005  # a thinner piece of the bar is not drawn
_LAUNCH = "#f0e442"


@dataclass(frozen=True, slots=True)
class PathSection:
    """All of it."""

    sentences: tuple[str, ...]
    parts: tuple[Part, ...]
    rows: tuple[HostPart, ...]
    sites: bool  # any row's line is known


def path_section(facts: Facts) -> PathSection | None:
    """The critical path as the report shows it."""
    path = facts.critical_path
    if path is None or path.step_ms <= 0:
        return None
    rows = tuple(row for row in path.host[:MOST_ROWS] if row.ms >= _LEAST_SHARE * path.step_ms)
    return PathSection(_sentences(facts, path), _parts(path), rows, any(row.site for row in rows))


def _sentences(facts: Facts, path: CriticalPath) -> tuple[str, ...]:
    groups = (
        ("the host", sum(path.host_ms.values())),
        ("the wait for data", path.data_wait_ms),
        ("launches on their way", path.launch_ms),
        ("kernels", sum(path.kernels_ms.values())),
        ("collectives", path.collectives_ms),
        ("copies", path.copies_ms),
        ("what can't be told", path.unknown_ms),
    )
    named = [(what, time) for what, time in groups if time >= _LEAST_SHARE * path.step_ms]
    named.sort(key=lambda pair: -pair[1])
    told = ", ".join(f"{what} for {ms(time)} ({share(time / path.step_ms)})" for what, time in named)
    which = "step of the device's own" if path.of_device else "step"
    sentences = [
        f"A {which} of {ms(path.step_ms)} is as long as this chain of what waits for what: {told}. What does not "
        "lie on it was hidden behind it: that makes the step shorter only once what hides it gets faster, too."
    ]
    room = path.room_ms
    if room is not None and named and named[0][0] == "the host":
        sentences.append(
            f"The device is busy for {ms(path.device_busy_ms or 0.0)} of this step: a faster host alone makes it "
            f"shorter by {ms(room)} at most."
        )
    if facts.trace is None:
        sentences.append("Recorded under torch.profiler, which slows the host: in the run its part is smaller.")
    return tuple(sentences)


def _parts(path: CriticalPath) -> tuple[Part, ...]:
    pieces: list[tuple[str, float, str, int]] = [
        ("data wait", path.data_wait_ms, palette.DEVICE["data_wait"], palette.hatch("data_wait"))
    ]
    for stage in STAGE_ORDER:
        time = path.host_ms.get(stage, 0.0)
        tint = palette.HOST.get(stage, palette.DEVICE["host"])
        pieces.append((f"host: {wording.label(stage)}", time, tint, palette.hatch(stage)))
    pieces.append(("launch", path.launch_ms, _LAUNCH, 0))
    families = list(palette.FAMILIES)
    for family, time in path.kernels_ms.items():
        number = families.index(family) % 7 if family in families else 6
        pieces.append((f"kernels: {names.family(family)}", time, palette.DEVICE["kernels"], number))
    pieces += [
        ("collectives", path.collectives_ms, palette.DEVICE["collectives"], 1),
        ("copies", path.copies_ms, palette.DEVICE["copies"], 2),
        ("cause not known", path.unknown_ms, palette.DEVICE["unknown"], 6),
    ]
    return tuple(
        Part(name, ms(time), time / path.step_ms, colour, hatch)
        for name, time, colour, hatch in pieces
        if time / path.step_ms >= _WORTH
    )
