import html
import math
from dataclasses import replace

import plotly.graph_objects
import pytest
import sample_result

from profiler.analysis.facts import Histogram, Timeline
from profiler.report import charts


def figures(result):
    facts = result.facts
    made = [charts.memory(facts.memory)]
    if facts.timeline and facts.steps:
        made.append(charts.timeline(facts.timeline, facts.steps))
    if facts.histogram and facts.steps:
        made.append(charts.histogram(facts.histogram, facts.steps))
    return [chart for chart in made if chart is not None]


@pytest.mark.parametrize("name", sorted(sample_result.ALL))
def test_plotly_accepts_every_figure(name):
    for chart in figures(sample_result.ALL[name]()):
        plotly.graph_objects.Figure(chart.figure)


def test_plotly_refuses_a_figure_with_a_property_it_does_not_know():
    chart = figures(sample_result.data_bound())[0]
    with pytest.raises(ValueError):
        plotly.graph_objects.Figure({**chart.figure, "layout": {"nonsense": 1}})


def test_a_long_timeline_is_thinned_without_losing_its_slowest_step_or_its_mean():
    facts = sample_result.million_steps().facts
    chart = charts.timeline(facts.timeline, facts.steps)
    stacked = [trace for trace in chart.figure["data"] if trace.get("stackgroup")]
    assert {len(trace["y"]) for trace in stacked} == {501}  # 500 columns and the end of the last
    assert "each column is the mean of 2,000 steps" in chart.note
    slowest = max(facts.timeline.max_ms)
    beyond = next(trace for trace in chart.figure["data"] if trace["name"] == "beyond the axis")
    assert any(text.startswith(f"{slowest:.2f}") for text in beyond["text"])
    drawn = sum(math.fsum(trace["y"]) for trace in stacked) / 500
    assert drawn == pytest.approx(math.fsum(facts.timeline.wall_ms) / len(facts.timeline.wall_ms), rel=1e-3)


def test_time_without_steps_is_drawn_as_a_gap():
    rows = Timeline(1, (0.0, 0.1, 5.0, 5.1), (100.0,) * 4, (100.0,) * 4, {"forward": (100.0,) * 4})
    steps = replace(sample_result.data_bound().facts.steps, count=4)
    trace = charts.timeline(rows, steps).figure["data"][0]
    assert list(zip(trace["x"], trace["y"], strict=True)) == [
        (0.0, 100.0),
        (0.1, 100.0),
        (0.2, 0.0),
        (5.0, 100.0),
        (5.1, 100.0),
        (5.2, 0.0),
    ]


def test_a_timeline_that_holds_fewer_steps_than_the_run_says_so():
    facts = sample_result.data_bound().facts
    assert charts.timeline(facts.timeline, facts.steps).note.startswith("9,984 steps;")
    assert charts.timeline(facts.timeline, replace(facts.steps, count=20_000)).note.startswith("9,984 of 20,000 steps")


@pytest.mark.parametrize("name", ["data_bound", "million_steps", "host_times"])
def test_the_histogram_accounts_for_every_step(name):
    facts = sample_result.ALL[name]().facts
    chart = charts.histogram(facts.histogram, facts.steps)
    drawn = sum(chart.figure["data"][0]["y"][:-1])
    total = sum(facts.histogram.counts)
    assert drawn == total - 1
    assert chart.note.startswith(f"1 step of {total:,} lies outside the axis")


def test_bins_that_widen_are_drawn_on_a_logarithmic_axis():
    edges = tuple(10 * 1.2**index for index in range(21))
    steps = replace(sample_result.data_bound().facts.steps, p5_ms=11.0, median_ms=60.0, p95_ms=300.0)
    chart = charts.histogram(Histogram(edges, (5,) * 20), steps)
    assert chart.figure["layout"]["xaxis"]["type"] == "log"
    assert chart.figure["layout"]["annotations"][1]["x"] == pytest.approx(math.log10(60))


def test_few_steps_are_no_distribution():
    steps = sample_result.data_bound().facts.steps
    assert charts.histogram(Histogram((1.0, 2.0), (9,)), steps) is None
    assert charts.histogram(Histogram((1.0, 2.0), (10,)), replace(steps, p5_ms=1.5, median_ms=1.5, p95_ms=1.5))


def test_memory_is_thinned_by_its_largest_reading():
    memory = sample_result.data_bound().facts.memory
    chart = charts.memory(memory)
    assert max(chart.figure["data"][0]["y"]) == pytest.approx(
        max(s.rss_bytes for s in memory.timeline) / 1024**3, rel=1e-4
    )
    assert chart.note == "Each point is the largest of 2 readings."


def test_labels_hold_no_markup_of_the_run():
    label = charts.label_text("<b>a & b</b>%{x}\x1b")
    assert "<" not in label and "%{" not in label
    assert html.unescape(label) == "<b>a & b</b>%{x}\\x1b"
