"""The chart of one step, and the command that exports it."""

from __future__ import annotations

import json
from dataclasses import replace

import plotly.graph_objects
import pytest
import sample_device
import sample_result
from click.testing import CliRunner

from profiler.analysis.excerpt import DEVICE, OPERATORS, STAGES, ExcerptRow, StepExcerpt
from profiler.cli.main import cli
from profiler.errors import ProfError
from profiler.report.excerpts import excerpt_chart, joined, swatches
from profiler.report.export.chrome import chrome_trace, export_steps
from profiler.report.html import render_html


def stream(starts, lengths, group="gemm"):
    count = len(starts)
    return ExcerptRow("stream 7", DEVICE, "device 0", tuple(starts), tuple(lengths), ("k",) * count, (group,) * count)


def test_spans_too_short_to_be_seen_are_joined_and_their_time_is_kept_together():
    row = stream([0, 10, 20, 500, 900], [8, 8, 8, 300, 5])
    boxes = joined(row, 0.05)  # ms
    assert [(round(box.start, 3), round(box.length, 3), box.text) for box in boxes] == [
        (0.0, 0.028, "3 short ones"),
        (0.5, 0.3, "k"),
        (0.9, 0.005, "k"),
    ]


def test_long_spans_stay_apart():
    assert len(joined(stream([0, 100, 200], [100, 100, 100]), 0.05)) == 3


def test_colours_tell_stages_from_kernels_and_each_is_explained():
    rows = (
        ExcerptRow("stages", STAGES, "host", (0.0,), (9.0,), ("step",), ("optimizer",)),
        ExcerptRow("operators", OPERATORS, "host", (0.0,), (9.0,), ("aten::mm",), ("",)),
        stream([0], [9], "optimizer"),
        stream([0], [9], "h2d_pinned"),
    )
    told = {swatch.name: swatch.colour for swatch in swatches([StepExcerpt(0, "typical", 0.0, 1.0, rows)])}
    assert list(told) == ["optimizer", "operator", "optimizer kernels", "copy or memset"]
    assert told["optimizer"] != told["optimizer kernels"]


def test_the_chart_of_a_long_step_is_small_and_one_that_plotly_takes():
    starts = [index * 3.0 for index in range(12_000)]
    excerpt = StepExcerpt(7, "typical", 0.0, 36.0, (stream(starts, [2.5] * 12_000),))
    chart = excerpt_chart(excerpt)
    plotly.graph_objects.Figure(chart.figure).to_dict()
    assert len(json.dumps(chart.figure)) < 100_000
    assert "12,000 spans" in chart.note


def test_the_report_shows_the_steps_and_stays_small():
    page = render_html(sample_device.gpu_trace())
    assert "Steps in full" in page
    assert "The slowest: step 5" in page
    assert page.count('data-chart="step_') == 2
    assert len(page) < 800_000
    assert 'id="in-full"' not in render_html(sample_result.data_bound())


def test_hostile_names_in_a_step_stay_names(tmp_path):
    facts = sample_device.hostile_device().facts
    assert "<img src=x" not in render_html(sample_device.hostile_device())
    text = json.dumps(chrome_trace(facts))
    assert json.loads(text)["traceEvents"]


def test_a_run_without_steps_in_full_says_so(tmp_path):
    with pytest.raises(ProfError, match="holds no step in full"):
        export_steps(sample_result.data_bound().facts, tmp_path / "it.json", "my-run")


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ProfError, match="is not a folder"):
        export_steps(sample_device.gpu_trace().facts, tmp_path / "none" / "it.json", "my-run")


def test_the_commands_know_the_option(tmp_path):
    for name in ("trace", "report"):
        assert "--export perfetto|chrome FILE" in CliRunner().invoke(cli, [name, "--help"]).output
    wrong = CliRunner().invoke(cli, ["report", "it", "--export", "svg", "x.json"])
    assert wrong.exit_code == 2
    assert "perfetto" in wrong.output


def test_each_step_keeps_its_place_in_the_recording():
    facts = sample_device.gpu_trace().facts
    slow = replace(facts.excerpts[0], start_ms=1000.0, what="slow", index=9)
    events = chrome_trace(replace(facts, excerpts=(facts.excerpts[0], slow)))["traceEvents"]
    steps = {event["name"]: event for event in events if event["name"].startswith("ProfilerStep#")}
    assert steps["ProfilerStep#9"]["ts"] == 1_000_000.0
    assert steps["ProfilerStep#9"]["args"] == {"step": "slow"}
