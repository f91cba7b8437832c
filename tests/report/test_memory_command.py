"""`prof memory`: terminal, page and JSON of a snapshot."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import sys
from pathlib import Path

import plotly.graph_objects
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "record"))

from snapshot_builder import MIB, Allocator, Training, dump, frame, main, snapshot

from profiler.cli.main import cli
from profiler.errors import ProfError
from profiler.report.snapshot.charts import memory_over_events
from profiler.report.snapshot.page import render_page
from profiler.report.snapshot.pipeline import explain

HOSTILE = '</script><script>window.broken=1</script><img src=x onerror="window.broken=1">%{y}\x1b[31m'


def trained(steps=3, **options):
    training = Training(Allocator(**options)).build()
    with contextlib.suppress(MemoryError):
        training.steps(steps)
    return training.device


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def invoke(*arguments):
        return CliRunner().invoke(cli, ["memory", *map(str, arguments)])

    return invoke


def test_the_terminal_says_what_held_the_memory_and_where(run, tmp_path):
    result = run(dump(snapshot(trained()), tmp_path / "it.pickle"))
    assert result.exit_code == 0
    text = re.sub(r"\s+", " ", result.output)
    assert "peak Device 0 held 217 MiB at its peak in backward: activations 36.9 % and optimizer states 29.5 %." in text
    assert "64.0 MiB train.py:44 optimizer states optimizer" in text
    assert max(len(line.rstrip()) for line in result.output.splitlines()) <= 100


def test_a_folder_gets_the_page_and_the_json(run, tmp_path):
    result = run(dump(snapshot(trained()), tmp_path / "it.pickle"), "-o", tmp_path / "out")
    assert result.exit_code == 0
    value = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert value["schema_version"] == 1
    assert sum(value["devices"][0]["categories_bytes"].values()) == value["devices"][0]["held_bytes"]
    assert (tmp_path / "out" / "memory.html").read_text().startswith("<!doctype html>")


def test_json_is_printed_alone(run, tmp_path):
    result = run(dump(snapshot(trained(60, capacity=300 * MIB)), tmp_path / "it.pickle"), "--json")
    value = json.loads(result.output)
    assert value["devices"][0]["moment"] in ("peak", "out of memory")
    assert {"summary", "findings", "notices", "source"} <= set(value)


def test_a_pickle_that_runs_code_is_refused_by_the_command(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/it-ran",)

    (tmp_path / "it.pickle").write_bytes(pickle.dumps({"segments": [Evil()]}))
    result = run(tmp_path / "it.pickle")
    assert isinstance(result.exception, ProfError)
    assert "not plain data" in str(result.exception)
    assert not (tmp_path / "it-ran").exists()


def test_a_page_that_can_not_be_written_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(dump(snapshot(trained()), tmp_path / "it.pickle"), "--html", tmp_path / "file" / "it.html")
    assert isinstance(result.exception, ProfError)
    assert "can't be written" in str(result.exception)


def test_hostile_names_stay_names(tmp_path, run):
    device = trained()
    device.alloc(99 * MIB, [frame(f"/home/{HOSTILE}.py", 3, HOSTILE), *main(3)], "other")
    path = dump(snapshot(device, allocator_settings={"PYTORCH_CUDA_ALLOC_CONF": HOSTILE}), tmp_path / "it.pickle")
    page = render_page(explain(path))
    assert "<img src=x" not in page
    assert page.count("<script") == 3  # charts, plotly, ours
    assert "\x1b" not in run(path).output


def test_the_page_stays_small_however_many_events_and_devices(tmp_path):
    path = dump(snapshot(*(trained(150, device=number) for number in range(4))), tmp_path / "it.pickle")
    page = render_page(explain(path))
    assert len(page) < 1_000_000
    assert all(f'id="device-{number}"' in page for number in range(4))


def test_the_chart_is_one_that_plotly_takes(tmp_path):
    device = explain(dump(snapshot(trained()), tmp_path / "it.pickle")).snapshot.devices[0]
    chart = memory_over_events(device)
    plotly.graph_objects.Figure(chart.figure).to_dict()
    names = [trace["name"] for trace in chart.figure["data"]]
    assert names == ["parameters", "gradients", "optimizer states", "activations", "workspace", "other", "reserved"]


def test_an_empty_snapshot_has_a_page_too(tmp_path, run):
    path = dump({"segments": [], "device_traces": [[]]}, tmp_path / "it.pickle")
    assert "Nothing was reserved" in re.sub(r"\s+", " ", run(path).output)
    assert "holds no device" in render_page(explain(path))


def test_files_are_shown_from_where_they_all_lie(tmp_path):
    assert explain(dump(snapshot(trained()), tmp_path / "it.pickle")).facts.root == "/home/ada/gpt"
