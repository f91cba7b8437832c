"""What the report says of the device.

In:  `Facts`.
Out: `DeviceSection`: sentences, figures and rows, as the template and the terminal show them; None where the device's
     own clock was not read. A cell that was not measured is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analysis.device_facts import COPY_KINDS, IDLE_CAUSES, DeviceFacts
from profiler.analysis.facts import Facts
from profiler.analysis.site import Site
from profiler.report import palette, wording
from profiler.report.device import names
from profiler.report.part import Part
from profiler.report.wording import ms, share

MOST_KERNELS = 25
WORTH = 0.0005  # of the span: a thinner piece of the bar is not drawn


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage: host's time and device's time per step."""

    name: str
    colour: str
    hatch: int
    host_ms: float | None
    device_ms: float | None
    host_width: float  # percent of the longest
    device_width: float


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One kernel in one stage."""

    name: str  # shortened
    full_name: str
    family: str
    stage: str
    operator: str
    site: Site | None
    count: int
    ms: float
    share: float  # of all kernel time
    tensor_cores: bool | None


@dataclass(frozen=True, slots=True)
class CopyRow:
    """Copies of one kind."""

    name: str
    count: int
    ms: float
    size: str
    rate: str
    site: Site | None = None


@dataclass(frozen=True, slots=True)
class DeviceSection:
    """All of it."""

    sentence: str
    notes: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    span_parts: tuple[Part, ...]
    stages: tuple[StageRow, ...]
    family_parts: tuple[Part, ...]
    kernels: tuple[KernelRow, ...]
    kernels_left: int
    operators: bool  # any kernel's operator is known
    sites: bool  # any kernel's line is known
    copies: tuple[CopyRow, ...]
    collectives_sentence: str
    sync_sentence: str


def device_section(facts: Facts) -> DeviceSection | None:
    """The device's section of a report."""
    device = facts.device
    if device is None:
        return None
    kernels = _kernels(device)
    return DeviceSection(
        f"{device.name or 'The device'} was {busy(device)}.",
        _notes(device),
        _figures(facts, device),
        _span_parts(device),
        _stages(facts, device),
        _family_parts(device),
        kernels[:MOST_KERNELS],
        max(len(kernels) - MOST_KERNELS, 0),
        any(row.operator for row in kernels[:MOST_KERNELS]),
        any(row.site for row in kernels[:MOST_KERNELS]),
        _copies(device),
        _collectives_sentence(device),
        _sync_sentence(device),
    )


def busy(device: DeviceFacts) -> str:
    """How busy it was, as the rest of a sentence."""
    what = "that were recorded" if device.source == "trace" else "of the deep window"
    steps = f", {share(device.steps_busy_share)} of the steps" if device.steps_busy_share is not None else ""
    return f"busy for {share(device.busy_share)} of the {ms(device.span_ms)} {what}{steps}"


def idle_shares(device: DeviceFacts) -> list[tuple[str, float]]:
    """Causes of idle time with their share of the span, largest first; [] where idle time means nothing."""
    if device.idle_ms is None or not device.span_ms:
        return []
    shares = [(cause, device.idle_ms.get(cause, 0.0) / device.span_ms) for cause in IDLE_CAUSES]
    return sorted((pair for pair in shares if pair[1] >= WORTH), key=lambda pair: -pair[1])


def _notes(device: DeviceFacts) -> tuple[str, ...]:
    notes = []
    if device.source == "window":
        notes.append(
            "Recorded in a few steps under torch.profiler, which slows the host and not the device: idle time is cut "
            "to what the run's own steps leave beside the device's work."
        )
    if device.thinned or device.idle_ms is None:
        notes.append(
            "Events were taken out of this recording afterwards, so that idle time means nothing in it: none is shown."
        )
    return tuple(notes)


def _figures(facts: Facts, device: DeviceFacts) -> tuple[tuple[str, str], ...]:
    rows: list[tuple[str, str | None]] = [
        ("busy", share(device.busy_share)),
        ("busy in the steps", None if device.steps_busy_share is None else share(device.steps_busy_share)),
        ("kernels", wording.count(device.kernel_count)),
        ("kernel, mean", ms(device.kernel_sum_ms / device.kernel_count) if device.kernel_count else None),
        ("on tensor cores", None if device.tensor_core_share is None else share(device.tensor_core_share)),
        ("launch to start, median", None if device.launch_delay_us is None else ms(device.launch_delay_us / 1000)),
        (
            "queued at a launch, median",
            None if device.queue_depth is None else wording.significant(device.queue_depth, 2),
        ),
        (
            "work a step",
            None if device.flops_per_step is None else f"{wording.significant(device.flops_per_step / 1e12)} TFLOP",
        ),
        ("MFU", None if device.mfu is None else share(device.mfu)),
        ("peak", None if device.peak_tflops is None else f"{wording.significant(device.peak_tflops)} TFLOP/s"),
    ]
    return tuple((name, text) for name, text in rows if text is not None)


def _span_parts(device: DeviceFacts) -> tuple[Part, ...]:
    """What the span went to: kernels, exposed collectives, copies that nothing hid, and idle time by cause."""
    pieces = [
        ("kernels", device.kernel_ms - device.collectives_exposed_ms, "kernels"),
        ("collectives, exposed", device.collectives_exposed_ms, "collectives"),
        ("copies alone", device.busy_ms - device.kernel_ms, "copies"),
        *((names.idle(cause), (device.idle_ms or {}).get(cause, 0.0), cause) for cause in IDLE_CAUSES),
    ]
    colours = list(palette.DEVICE)
    return tuple(
        Part(name, ms(value), value / device.span_ms, palette.DEVICE[key], colours.index(key) % 7)
        for name, value, key in pieces
        if device.span_ms and value / device.span_ms >= WORTH
    )


def _stages(facts: Facts, device: DeviceFacts) -> tuple[StageRow, ...]:
    measured = {name: value for name, value in device.stages_ms.items() if value > 0 or name in facts.stages}
    happened = {name for name, stage in facts.stages.items() if stage.happened}
    known = palette.in_order({*happened, *(name for name, value in measured.items() if name and value > 0)})
    colours = palette.colours(known)
    longest = max([*(facts.stage_ms(name) for name in known), *measured.values()], default=0.0) or 1.0
    rows = []
    for name in known:
        host = facts.stages[name].mean_ms if name in facts.stages else None
        there = measured.get(name)
        if host is None and there is None:
            continue
        rows.append(
            StageRow(
                wording.label(name),
                colours[name],
                palette.hatch(name),
                host,
                there,
                round(100 * (host or 0.0) / longest, 1),
                round(100 * (there or 0.0) / longest, 1),
            )
        )
    if measured.get("", 0.0) > 0:
        width = round(100 * measured[""] / longest, 1)
        rows.append(StageRow("stage not known", "#c2c7cf", 6, None, measured[""], 0.0, width))
    return tuple(rows) if measured else ()


def _family_parts(device: DeviceFacts) -> tuple[Part, ...]:
    whole = sum(family.ms for family in device.families)
    colours = list(palette.FAMILIES)
    return tuple(
        Part(
            names.family(family.family),
            ms(family.ms),
            family.ms / whole,
            palette.FAMILIES.get(family.family, palette.FAMILIES["other"]),
            colours.index(family.family) % 7 if family.family in palette.FAMILIES else 6,
        )
        for family in device.families
        if whole and family.ms / whole >= WORTH
    )


def _kernels(device: DeviceFacts) -> tuple[KernelRow, ...]:
    whole = device.kernel_sum_ms or 1.0
    return tuple(
        KernelRow(
            names.kernel(it.name),
            wording.printable(it.name)[:400],
            names.family(it.family),
            wording.label(it.stage) if it.stage else "",
            names.kernel(it.operator),
            it.site,
            it.count,
            it.ms,
            it.ms / whole,
            it.tensor_cores,
        )
        for it in device.kernels
    )


def _copies(device: DeviceFacts) -> tuple[CopyRow, ...]:
    return tuple(
        CopyRow(
            names.copy(kind),
            copies.count,
            copies.ms,
            "" if copies.bytes is None else wording.byte_size(copies.bytes),
            ""
            if copies.bytes is None or copies.ms <= 0
            else f"{wording.significant(copies.bytes / copies.ms / 1e6)} GB/s",
            copies.site,
        )
        for kind in sorted(device.copies, key=lambda kind: COPY_KINDS.index(kind) if kind in COPY_KINDS else 99)
        if (copies := device.copies[kind]).count
    )


def _collectives_sentence(device: DeviceFacts) -> str:
    if not device.collectives_ms:
        return ""
    exposed = device.collectives_exposed_ms
    return (
        f"Collectives ran for {ms(device.collectives_ms)}; for {ms(exposed)} of it "
        f"({share(exposed / device.collectives_ms)}) no other kernel ran: that part is exposed."
    )


def _sync_sentence(device: DeviceFacts) -> str:
    if not device.sync_ms:
        return ""
    busy = device.sync_ms - device.sync_starved_ms
    text = f"The host was blocked for {ms(device.sync_ms)} until the device had caught up. "
    if device.thinned or device.idle_ms is None:
        return text.strip()
    if device.sync_starved_ms < 0.05 * device.sync_ms:
        return f"{text}The device worked through {ms(busy)} of it: waiting for it cost hardly anything."
    return (
        f"{text}For {ms(busy)} of it the device worked anyway; for {ms(device.sync_starved_ms)} it had nothing to do."
    )
