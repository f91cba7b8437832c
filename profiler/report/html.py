"""A run's result as one HTML file that needs nothing else: no network, no server, no folder beside it.

In:  a `Result`.
Out: the file's text.
"""

from __future__ import annotations

import itertools
import shlex
import time
from dataclasses import dataclass
from typing import Any

import profiler
from profiler.analysis.facts import (
    Facts,
    LoaderSettings,
    MemoryFacts,
    OptimizerSettings,
    RootSettings,
    SpanFacts,
    WorkerFacts,
)
from profiler.analysis.site import Site
from profiler.report import charts, palette, wording
from profiler.report.device.charts import device_charts
from profiler.report.device.path import path_section
from profiler.report.device.roofline import roofline_section
from profiler.report.device.section import device_section
from profiler.report.excerpts import excerpt_charts, swatches
from profiler.report.page import environment, page_values
from profiler.report.part import Part
from profiler.report.ranks.section import ranks_section
from profiler.report.snapshot import wording as held_words
from profiler.report.snapshot.section import held_sections
from profiler.report.summary import notices
from profiler.rules.verdict import Result


@dataclass(frozen=True, slots=True)
class SettingRow:
    """Something that was set, with what, and where."""

    name: str
    note: str
    values: dict[str, Any]
    site: Site | None

    @property
    def given(self) -> dict[str, Any]:
        """What was given; the rest was left to its default."""
        return {key: value for key, value in self.values.items() if value is not None and value not in ("", [], (), {})}


def render_html(result: Result) -> str:
    """The report of a run."""
    facts, judgement = result.facts, result.judgement
    figures = _charts(facts)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            facts=facts,
            judgement=judgement,
            top=judgement.findings[0] if judgement.findings else None,
            root=facts.root,
            title=facts.run.name or "run",
            command=shlex.join(facts.run.command),
            started=_moment(facts.run.started_unix_s),
            notices=notices(facts),
            host_note=wording.host_times_note(facts),
            stages=[facts.stages[name] for name in palette.in_order(facts.stages) if facts.stages[name].happened],
            stage_parts=_stage_parts(facts),
            worker_parts=_worker_parts(facts.workers),
            category_parts=_category_parts(facts.memory.categories_bytes),
            span_parts=_span_parts(facts),
            span_colours=_span_colours(facts.spans),
            setting_rows=_setting_rows(facts),
            identity=_identity(facts),
            overhead_text=wording.overhead(facts),
            has_memory=_has_memory(facts.memory) or facts.snapshot is not None,
            device=device_section(facts),
            path=path_section(facts),
            roof=roofline_section(facts),
            ranks=ranks_section(facts),
            swatches=swatches,
            held=held_sections(facts),
            held_words=held_words,
            **page_values(figures),
        )
    )


def _charts(facts: Facts) -> dict[str, charts.Chart]:
    steps = facts.steps
    made = {
        "timeline": charts.timeline(facts.timeline, steps) if facts.timeline and steps else None,
        "histogram": charts.histogram(facts.histogram, steps) if facts.histogram and steps else None,
        "memory": charts.memory(facts.memory),
        **device_charts(facts.device),
    }
    return {name: chart for name, chart in made.items() if chart is not None} | excerpt_charts(facts.excerpts)


def _stage_parts(facts: Facts) -> list[Part]:
    colours = palette.colours(facts.stages)
    return [
        Part(wording.label(name), wording.ms(stage.mean_ms), stage.share, colours[name], palette.hatch(name))
        for name, stage in ((name, facts.stages[name]) for name in colours)
        if stage.happened
    ]


def _worker_parts(workers: WorkerFacts | None) -> list[Part]:
    if workers is None:
        return []
    times = {
        "load (blocked on storage)": workers.load_ms,
        "preprocess": workers.preprocess_ms,
        "collate": workers.collate_ms,
        "waiting for a core": workers.run_delay_ms,
    }
    return [
        Part(name, wording.ms(value), value / workers.parts_ms, colour, index)
        for index, ((name, value), colour) in enumerate(zip(times.items(), palette.WORKER_PARTS, strict=True))
        if value > 0
    ]


def _category_parts(categories: dict[str, int]) -> list[Part]:
    total, colours = sum(categories.values()), itertools.cycle(palette.CATEGORIES)
    return [
        Part(wording.label(name), wording.byte_size(size), size / total, colour, index)
        for index, ((name, size), colour) in enumerate(zip(categories.items(), colours, strict=False))
        if size > 0
    ]


def _has_memory(memory: MemoryFacts) -> bool:
    """Whether there is anything to say of memory."""
    peaks = (memory.peak_rss_bytes, memory.peak_device_bytes, memory.workers_peak_rss_bytes)
    return any(peak is not None for peak in peaks) or bool(
        memory.categories_bytes or memory.stage_peak_bytes or memory.activations_by_module or len(memory.timeline) > 1
    )


def _span_colours(spans: tuple[SpanFacts, ...]) -> dict[str, str]:
    return {span.name: palette.SPANS.get(span.name, palette.CATEGORIES[0]) for span in spans}


def _span_parts(facts: Facts) -> list[dict[str, Any]]:
    """Rectangles of the run bar, in percent of the run."""
    ends = [end for span in facts.spans for _, end in span.intervals_s]
    duration = max([facts.run.duration_s, *ends])
    if duration <= 0:
        return []
    colours = _span_colours(facts.spans)
    return [
        {
            "left": round(100 * start / duration, 4),
            "width": round(100 * max(end - start, 0) / duration, 4),
            "colour": colours[span.name],
            "title": f"{wording.label(span.name)} for {wording.seconds(end - start)}",
        }
        for span in facts.spans
        for start, end in span.intervals_s
    ]


def _setting_rows(facts: Facts) -> list[SettingRow]:
    """What was set, with what, and where; an argument that was not given is left out."""
    settings = facts.settings
    rows = [_loader_row(loader) for loader in settings.loaders]
    rows += [_root_row(root) for root in settings.roots]
    rows += [_optimizer_row(optimizer) for optimizer in settings.optimizers]
    rows += [
        SettingRow(key.replace("_", " "), "", {"": value}, settings.sites.get(key))
        for key, value in settings.values.items()
    ]
    return [row for row in rows if row.given or row.site]


def _loader_row(loader: LoaderSettings) -> SettingRow:
    given = {
        "batch_size": loader.batch_size,
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "prefetch_factor": loader.prefetch_factor,
        "persistent_workers": loader.persistent_workers if loader.num_workers else None,
        "shuffle": loader.shuffle,
        "items": loader.length,
        "start method": loader.context,
    }
    name = f"DataLoader of {loader.dataset}" if loader.dataset else "DataLoader"
    return SettingRow(name, "feeds training" if loader.trains else "", given | loader.extra, loader.site)


def _root_row(root: RootSettings) -> SettingRow:
    given = {
        "parameters": root.parameters or None,
        "trainable": root.trainable_parameters if root.trainable_parameters != root.parameters else None,
        "dtypes": ", ".join(root.dtypes) or None,
        "submodules": root.submodules or None,
        "compiled": root.compiled or None,
    }
    return SettingRow(root.name, "loss" if root.is_loss else "model", given | root.extra, root.site)


def _optimizer_row(optimizer: OptimizerSettings) -> SettingRow:
    given = {
        "tensors": optimizer.tensors,
        "parameters": optimizer.parameters,
        "groups": optimizer.groups,
        "foreach": optimizer.foreach,
        "fused": optimizer.fused,
        "capturable": optimizer.capturable or None,
    }
    return SettingRow(optimizer.name, "optimizer", given | optimizer.extra, optimizer.site)


def _moment(unix_s: float) -> str | None:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s)) if unix_s > 0 else None


def _cores(value: float | None) -> str | None:
    return None if value is None else wording.significant(value, 2)


def _identity(facts: Facts) -> list[tuple[str, str]]:
    run, machine = facts.run, facts.machine
    ended = "in an orderly way" if run.ended else "without an orderly end"
    if run.signal:
        ended = f"by {run.signal}"
    elif run.exit_code is not None:
        ended += f", exit code {run.exit_code}"
    rows: list[tuple[str, str | None]] = [
        ("run", run.name),
        ("command", shlex.join(run.command)),
        ("started", _moment(run.started_unix_s)),
        ("took", wording.seconds(run.duration_s)),
        ("ended", ended),
        ("device", machine.device),
        ("cores", wording.count(machine.cores) if machine.cores else None),
        ("idle cores during steps", _cores(machine.idle_cores)),
        ("cores used by training", _cores(machine.process_cores)),
        ("cores waiting for storage", _cores(machine.iowait_cores)),
        ("memory", wording.byte_size(machine.memory_bytes) if machine.memory_bytes else None),
        ("ranks", wording.count(run.ranks)),
        ("other trainings under the command", str(run.other_trainings) if run.other_trainings else None),
        ("torch", run.torch),
        ("Python", run.python),
        *((f"GPU {wording.label(name)}", wording.significant(value)) for name, value in machine.gpu.items()),
        ("prof", profiler.__version__),
    ]
    return [(name, value) for name, value in rows if value]
