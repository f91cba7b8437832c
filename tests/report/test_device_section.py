"""The device's section: what is said of its time, its kernels and its waits, and what is left unsaid."""

from __future__ import annotations

import re
from dataclasses import replace

import plotly.graph_objects
import pytest
import sample_device
import sample_result
from rich.console import Console

from profiler.report.device import names
from profiler.report.device.charts import MAX_STEPS, device_charts
from profiler.report.device.section import device_section
from profiler.report.html import render_html
from profiler.report.terminal import print_result


def section(**changes):
    facts = sample_device.gpu_trace().facts
    return device_section(replace(facts, device=replace(facts.device, **changes)))


def test_a_run_whose_device_was_not_read_has_no_section():
    assert device_section(sample_result.data_bound().facts) is None
    assert 'id="device"' not in render_html(sample_result.data_bound())
    assert 'href="#device"' not in render_html(sample_result.healthy())


def test_the_pieces_of_the_bar_are_the_whole_span():
    made = section()
    assert sum(part.share for part in made.span_parts) == pytest.approx(1.0, abs=0.002)
    told = {part.name: round(part.share * 465.28, 1) for part in made.span_parts}
    assert told["kernels"] == 281.3  # 369.26 less the 87.92 of collectives that nothing hid
    assert told["collectives, exposed"] == 87.9
    assert told["copies alone"] == 19.3
    assert told["idle: host late"] == 60.3


def test_host_and_device_stand_side_by_side_and_what_was_not_measured_stays_empty():
    rows = {row.name: row for row in section().stages}
    assert (rows["backward"].host_ms, rows["backward"].device_ms) == (pytest.approx(33.47, abs=0.01), 38.0)
    assert rows["data wait"].device_ms is None
    assert rows["stage not known"].host_ms is None
    assert rows["backward"].device_width == 100.0
    assert section(stages_ms={}).stages == ()


def test_a_thinned_recording_shows_no_idle_time():
    made = device_section(sample_device.thinned().facts)
    assert not any(part.name.startswith("idle") for part in made.span_parts)
    assert "idle time means nothing" in made.notes[0]
    page = render_html(sample_device.thinned())
    assert "idle:" not in page
    assert "starved" not in page


def test_waiting_for_a_busy_device_is_not_called_a_cost():
    assert "The device worked through 75.0\u202fms of it" in section().sync_sentence
    assert "it had nothing to do" in section(sync_starved_ms=40.0).sync_sentence
    assert section(sync_ms=0.0).sync_sentence == ""


def test_empty_parts_have_no_heading():
    page = render_html(sample_device.gpu_window())
    section_html = page[page.index('<section id="device">') :]
    section_html = section_html[: section_html.index("</section>")]
    for heading in ("Collectives", "Waiting for the device", "Memory on the device"):
        assert f"<h3>{heading}</h3>" not in section_html
    assert "under torch.profiler" in section_html
    assert "MFU" in section_html
    assert not re.search(r">\s*[–—-]\s*<", section_html)


def test_copies_have_a_rate_where_their_bytes_are_known():
    rows = {row.name: row for row in section().copies}
    assert rows["host to device, pinned"].rate == "8.37 GB/s"
    assert (rows["device to host"].size, rows["device to host"].rate) == ("", "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (sample_device.ELEMENTWISE, "at::native::vectorized_elementwise_kernel<CUDAFunctor_add…>"),
        ("void (anonymous namespace)::softmax<float, (int)4>(float*)", "softmax<…>"),
        (
            "void cutlass::Kernel<cutlass_80_simt_sgemm_128x32>(Params)",
            "cutlass::Kernel<cutlass_80_simt_sgemm_128x32…>",
        ),
        (sample_device.GEMM, sample_device.GEMM),
        ("Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD (Pinned -> Device)"),
        ("a" * 300, "a" * 89 + "…"),
        ("broken<<<", "broken<…"),
        ("", ""),
    ],
)
def test_a_kernels_name_is_shortened_to_what_tells_it(name, shown):
    assert names.kernel(name) == shown


@pytest.mark.parametrize("name", sorted(sample_device.ALL))
def test_charts_are_such_as_plotly_takes(name):
    for chart in device_charts(sample_device.ALL[name]().facts.device).values():
        if chart is not None:
            plotly.graph_objects.Figure(chart.figure).to_dict()


def test_many_steps_are_drawn_as_few_bars_with_the_same_mean():
    device = sample_device.gpu_window().facts.device
    chart = device_charts(device)["device_steps"]
    busy = chart.figure["data"][0]["y"]
    assert len(busy) <= MAX_STEPS
    assert sum(busy) / len(busy) == pytest.approx(sum(s.busy_ms for s in device.steps) / len(device.steps), rel=1e-3)
    assert "1,000 steps" in chart.note


def test_one_step_is_no_chart():
    facts = sample_device.gpu_trace().facts
    assert device_charts(replace(facts.device, steps=facts.device.steps[:1]))["device_steps"] is None


def test_the_terminal_says_how_busy_the_device_was_and_why_it_was_not():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_result(sample_device.gpu_trace(), console)
    text = re.sub(r"\s+", " ", console.export_text())
    assert "Device busy for 83.5 % of the 465 ms that were recorded" in text
    assert "Idle in it: host 13.0 %, unknown 2.6 %" in text
    assert "Collectives 164 ms in all, 87.9 ms of it exposed." in text


def test_hostile_names_of_a_trace_stay_names():
    page = render_html(sample_device.hostile_device())
    assert "<img src=x" not in page
    assert page.count("<script") == 3


def test_the_page_stays_small():
    assert len(render_html(sample_device.gpu_window())) < 700_000
