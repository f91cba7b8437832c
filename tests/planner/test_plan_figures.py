"""Axes of the planner's figures can be read: each tick is a number in full."""

from __future__ import annotations

from plan_requests import planned

from profiler.report.plan.figures import figures


def test_ticks_are_told_in_full_and_devices_are_those_that_were_planned() -> None:
    drawn = figures(planned("gpt2-xl", "rtx-4090", units=9e9))
    for chart in (drawn["memory"], drawn["time"]):
        across, up = chart.figure["layout"]["xaxis"], chart.figure["layout"]["yaxis"]
        assert across["ticktext"] == [f"{devices:,}" for devices in chart.figure["data"][0]["x"]]
        assert [float(text.replace(",", "")) for text in up["ticktext"]] == up["tickvals"]
        values = [value for line in chart.figure["data"] for value in line["y"]]
        assert up["tickvals"][0] <= min(values) * 2 and up["tickvals"][-1] >= max(values) / 2.5
