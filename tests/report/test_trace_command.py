"""`prof trace`: from the command line to the folder with the report."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click.testing
import pytest

from profiler.analysis.device_facts import DeviceStep
from profiler.analysis.trace.facts import facts_of
from profiler.cli.main import cli
from profiler.errors import ProfError
from profiler.record.trace.read import read_trace
from profiler.report.html import render_html
from profiler.report.summary import MOST_DEVICE_STEPS, summary, summary_bytes
from profiler.rules.catalogue import judge
from profiler.rules.device import per_step
from profiler.rules.verdict import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "record"))
from trace_builder import TraceBuilder, training, usual_host


def step(builder: TraceBuilder, start: float) -> None:
    usual_host(builder, start)
    for number in range(20):
        builder.kernel(start + 1.5 + number * 4.8, 4.79, launched=start + 0.3 + number * 0.05)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return training(step).write(tmp_path / "worker0.pt.trace.json.gz")


def prof(*arguments: object) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_trace_gives_what_a_run_gives(trace: Path, tmp_path: Path) -> None:
    shown = prof("trace", trace).output
    folder = tmp_path / "reports" / "worker0"
    summary = json.loads((folder / "summary.json").read_text())
    assert "compute" in shown and "reports/worker0/report.html" in shown
    assert summary["verdict"]["bottleneck"] == "compute"
    assert summary["steps"]["count"] == 4
    assert summary["run"]["name"] == "worker0"
    device = summary["device"]
    assert device["busy_share"] == pytest.approx(0.96, abs=0.01)
    assert device["collectives"] == {"total_ms": 0.0, "exposed_ms": 0.0, "kinds": []}
    assert set(device["idle_ms"]) == {"host", "sync", "data_wait", "copy", "communication", "unknown"}
    assert set(device["sync"]) == {"ms", "starved_ms"}
    assert {"name", "span_ms", "kernel_count", "kernel_ms", "tensor_core_share", "copies", "mfu", "peak_tflops"} <= set(
        device
    )
    page = (folder / "report.html").read_text()
    assert "ampere_sgemm_128x64_nn" in page
    assert len(page) < 3_000_000


def test_a_run_is_not_taken_for_a_folder_of_traces(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ProfError, match="prof report"):
        prof("trace", tmp_path)


def test_operators_of_which_only_some_have_a_line_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_forward(builder: TraceBuilder, start: float) -> None:
        step(builder, start)
        builder.python("net.py(4): forward", start, 33)  # backward begins later

    monkeypatch.chdir(tmp_path)
    prof("trace", training(with_forward).write(tmp_path / "it.json"), "--quiet")
    summary = json.loads((tmp_path / "reports" / "it" / "summary.json").read_text())
    rows = summary["operators"]
    assert any("recorded with stacks" in notice for notice in summary["notices"])
    assert {"site" in row for row in rows} == {True, False}
    assert "net.py" in (tmp_path / "reports" / "it" / "report.html").read_text()


def test_a_trace_of_thousands_of_steps_is_reported_in_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists are bounded, the figures are those of all steps, and no step is looked at rule by rule."""
    steps = 3 * MOST_DEVICE_STEPS + 5
    looked = Counter[str]()

    def small(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start, data_ms=0.1, step_ms=10.0)
        builder.kernel(start + 1, 2 + start % 7, launched=start + 0.5)

    facts = facts_of(read_trace(training(small, steps, 10.0).write(tmp_path / "long.json"))).facts
    device = facts.device
    assert device is not None and len(device.steps) == steps
    whole = {name: sum(getattr(step, name) for step in device.steps) for name in ("busy_ms", "wall_ms")}

    def counting(step: DeviceStep, name: str) -> Any:
        looked[name] += name in DeviceStep.__dataclass_fields__
        return object.__getattribute__(step, name)

    monkeypatch.setattr(DeviceStep, "__getattribute__", counting)
    result = Result(facts, judge(facts))
    counted = looked.total() / steps
    monkeypatch.undo()
    assert counted < 40  # each rule by itself would look at six fields
    told = summary(result)
    assert len(told["device"]["steps"]) <= MOST_DEVICE_STEPS
    assert (told["device"]["steps_of"], told["device"]["steps_every"]) == (steps, 4)
    assert [step["index"] for step in told["device"]["steps"]] == list(range(0, steps, 4))
    assert told["steps"]["count"] == steps
    assert told["device"]["busy_ms"] == pytest.approx(whole["busy_ms"], rel=1e-6)
    per = per_step(facts)
    assert not isinstance(per, str)
    assert per.busy_ms == pytest.approx(whole["busy_ms"] / steps, rel=1e-6)
    assert per.step_ms == pytest.approx(whole["wall_ms"] / steps, rel=1e-6)
    assert len(render_html(result)) < 3_000_000
    assert len(summary_bytes(told)) < 1_000_000


def test_names_in_a_trace_can_not_run_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = "</script><img src=x onerror=alert(1)>\u202e\x1b[31m"

    def hostile(builder: TraceBuilder, start: float) -> None:
        step(builder, start)
        builder.op(evil, start + 2, 1)
        builder.kernel(start + 97.6, 1, launched=start + 2.5, name=evil)
        builder.mark(f"Optimizer.step#{evil}.step", start + 98, 1)

    builder = training(hostile)
    builder.head["deviceProperties"] = [{"id": 0, "name": evil}]
    shown = prof("trace", builder.write(tmp_path / "evil.json")).output
    assert "\x1b[31m" not in shown
    page = (tmp_path / "reports" / "evil" / "report.html").read_text()
    assert "<img src=x" not in page


def test_the_place_and_the_name_may_be_chosen(trace: Path, tmp_path: Path) -> None:
    prof("trace", trace, "-o", tmp_path / "out", "--name", "mine", "--quiet")
    assert (tmp_path / "out" / "mine" / "summary.json").exists()
    assert json.loads(prof("trace", trace, "--json", "-o", tmp_path / "out").output)["run"]["name"] == "worker0"


def test_the_same_trace_again_takes_the_same_folder(trace: Path, tmp_path: Path) -> None:
    prof("trace", trace, "--quiet")
    prof("trace", trace, "--quiet")
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["worker0"]


def test_a_folder_of_another_run_is_left_alone(trace: Path, tmp_path: Path) -> None:
    other = tmp_path / "reports" / "worker0"
    other.mkdir(parents=True)
    (other / "run.json").write_text("{}")
    prof("trace", trace, "--quiet")
    assert (tmp_path / "reports" / "worker0-2" / "summary.json").exists()
    with pytest.raises(ProfError, match="exists already"):
        prof("trace", trace, "--name", "worker0")


def test_its_report_is_rendered_again_while_the_trace_is_there(trace: Path, tmp_path: Path) -> None:
    prof("trace", trace, "--quiet")
    (tmp_path / "reports" / "worker0" / "report.html").unlink()
    prof("report", "worker0", "--quiet")
    page = (tmp_path / "reports" / "worker0" / "report.html").read_text()
    assert "Operators of the recorded steps" in page and "deep window" not in page
    assert "worker0" in prof("list").output
    trace.unlink()
    with pytest.raises(ProfError, match="made from the trace"):
        prof("report", "worker0")


def test_a_folder_of_ranks_is_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job").mkdir()
    for rank in range(3):
        training(step, rank=rank, world_size=3).write(tmp_path / "job" / f"rank-{rank}.json.gz")
    summary = json.loads(prof("trace", "job", "--json").output)
    assert summary["run"]["ranks"] == 3
    assert any("3 traces were read" in notice for notice in summary["notices"])
    assert (tmp_path / "reports" / "job" / "report.html").exists()


@pytest.mark.parametrize("content", ["", "nothing", "{}", '{"traceEvents": []}'])
def test_what_is_no_trace_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ProfError) as error:
        prof("trace", "bad.json")
    assert len(str(error.value).splitlines()) == 1
    assert not list((tmp_path / "reports").iterdir())
