"""The user's lines of traces: by functions of Python, by stacks of operators, and of a training recorded here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_builder import ENGINE, THREAD, TraceBuilder, training, usual_host

from profiler.analysis.device.enclosing import owners
from profiler.analysis.facts import Facts
from profiler.analysis.places import places_of
from profiler.analysis.site import Site
from profiler.analysis.source_lines import Sources
from profiler.analysis.trace.facts import facts_of
from profiler.analysis.trace.many import read_traces
from profiler.record.trace.python import Frame
from profiler.record.trace.read import read_trace
from profiler.rules.catalogue import judge

SOURCE = """\
import json


def evaluate(model, batch):
    return model(batch)


def log(loss):
    values = [float(v) for v in loss]
    with open("log") as file:
        json.dump(values, file)  # json.dump( in a comment
        file.flush()


@decorated
def train(loader):
    for batch in loader:
        loss = model(batch)
        loss.backward()
        optimizer.step()
        print(loss.item())
        profiler.step()
        a = batch.cpu(); b = loss.cpu()
        c = b.cpu()
"""


def facts(builder: TraceBuilder, tmp_path: Path, source: str | None = None) -> Facts:
    read = (lambda name: source if name == "train.py" else None) if source is not None else (lambda name: None)
    return facts_of(read_trace(builder.write(tmp_path / "made.json")), read=read).facts


@pytest.mark.parametrize(
    ("frame", "called", "stood", "operator", "line"),
    [
        (Frame("train.py", 8, "log"), "json.dump", False, "", 11),
        (Frame("train.py", 8, "log"), "json.encoder.encode", False, "", 8),
        (Frame("train.py", 9, "<listcomp>"), "", False, "aten::item", 9),
        (Frame("train.py", 15, "train"), "torch._tensor.backward", False, "", 19),
        (Frame("train.py", 22, "train"), "torch.optim.optimizer.wrapper", True, "", 20),
        (Frame("train.py", 22, "train"), "torch.utils.data.dataloader.__next__", True, "", 17),
        (Frame("train.py", 22, "train"), "", True, "aten::item", 21),
        (Frame("train.py", 22, "train"), "Tensor.cpu", True, "", 15),  # two lines do so: the function is what is known
        (Frame("train.py", 22, "train"), "nn.Module: Net_0", True, "", 15),
        (Frame("train.py", 20, "train"), "Tensor.item", False, "", 20),  # it begins elsewhere now: another file
        (Frame("train.py", 4, "gone"), "Tensor.item", False, "", 4),
        (Frame("other.py", 4, "train"), "Tensor.item", False, "", 4),
    ],
)
def test_a_line_is_told_where_only_one_calls_what_ran(
    frame: Frame, called: str, stood: bool, operator: str, line: int
) -> None:
    sources = Sources(lambda name: SOURCE if name == "train.py" else None)
    assert sources.line(frame, called, stood, operator).site.line == line


def test_source_that_is_none_is_as_good_as_missing() -> None:
    for text in ("def f(:\n", "\0", "x = " + "(" * 5000):
        assert Sources(lambda name, text=text: text).line(Frame("a.py", 1, "f"), "print", False).site.line == 1


def waiting(builder: TraceBuilder, start: float) -> None:
    """A step of 100 ms: `log` asks for an item for 40 ms, with the device idle for most of it."""
    usual_host(builder, start, step_ms=50.0)
    builder.kernel(start + 2, 20, launched=start + 1.5)
    builder.op("aten::item", start + 55, 40)
    builder.op("aten::_local_scalar_dense", start + 55, 40)
    builder.kernel(start + 56, 1, launched=start + 55.2)
    builder.call("cudaStreamSynchronize", start + 56, 38.9)


def with_functions(steps: int = 4) -> TraceBuilder:
    builder = TraceBuilder()
    module = builder.python("train.py(30): <module>", 0, steps * 100)
    main = builder.python("train.py(22): train", 0.001, steps * 100 - 0.002, module)
    builder.python("torch/profiler/profiler.py(1): step", 0.002, 0.01, main)
    for number in range(steps):
        builder.mark(f"ProfilerStep#{number + 5}", number * 100, 99.99)
        waiting(builder, number * 100)
        log = builder.python("train.py(8): log", number * 100 + 54, 42, main)
        builder.python("<built-in method item of Tensor object at 0x7>", number * 100 + 54.5, 41, log)
    return builder


def test_a_wait_for_the_device_names_the_users_function(tmp_path: Path) -> None:
    found = facts(with_functions(), tmp_path)
    assert found.device is not None
    wait = found.device.syncs[0]
    assert (wait.operator, wait.site) == ("aten::item", Site("train.py", 8, "log"))
    item = next(finding for finding in judge(found).findings if finding.rule == "sync/item")
    assert (item.fix.file, item.fix.line) == ("train.py", 8)
    assert any("names your functions" in notice for notice in found.notices)
    assert "lines" not in found.not_measured


def test_a_wait_names_the_line_where_its_source_is_there(tmp_path: Path) -> None:
    source = SOURCE.replace("        file.flush()\n", "        total = loss.item()\n")
    found = facts(with_functions(), tmp_path, source)
    item = next(finding for finding in judge(found).findings if finding.rule == "sync/item")
    assert (item.fix.file, item.fix.line) == ("train.py", 12)


def test_lines_of_a_stage_add_up_to_the_time_that_the_user_spent_there(tmp_path: Path) -> None:
    found = facts(with_functions(), tmp_path)
    other = found.stages["other"]
    log = sum(line.ms_per_step for line in other.lines if line.site.function == "log")
    assert log == pytest.approx(42, abs=0.1)
    assert sum(line.share_of_stage for line in other.lines) == pytest.approx(1, abs=0.02)
    backward = found.stages["backward"].lines
    assert [(line.site.function, line.measured) for line in backward] == [("train", True)]


def test_stacks_that_operators_carry_name_the_line_itself(tmp_path: Path) -> None:
    builder = training(waiting)
    for event in builder.events:
        if event["name"] == "aten::item":
            event["args"]["Call stack"] = "torch/_tensor.py(4): item;/home/ada/train.py(77): main"
    found = facts(builder, tmp_path)
    item = next(finding for finding in judge(found).findings if finding.rule == "sync/item")
    assert (item.fix.file, item.fix.line) == ("/home/ada/train.py", 77)
    assert not any("names your functions" in notice for notice in found.notices)


def test_a_kernel_and_a_copy_name_the_function_that_launched_most_of_them(tmp_path: Path) -> None:
    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        main = builder.python("train.py(15): train", start, 99)
        builder.python("net.py(4): forward", start + 10, 20, main)
        for at in (11, 12, 13):
            builder.kernel(start + at + 1, 1, launched=start + at)
        builder.kernel(start + 60, 0.5, launched=start + 50)
        builder.kernel(start + 70, 0.5, launched=start + 51, thread=ENGINE, name="other_kernel")
        builder.copy(start + 5, 3, called=start + 4, call_ms=5)

    found = facts(training(step), tmp_path).device
    assert found is not None
    sites = {(row.name, row.stage): row.site for row in found.kernels}
    assert sites["ampere_sgemm_128x64_nn", "forward"] == Site("net.py", 4, "forward")
    assert sites["ampere_sgemm_128x64_nn", "backward"] == Site("train.py", 15, "train")
    # the graph's own thread has no functions: the line that asked for the graph is the training thread's
    assert next(site for (name, _), site in sites.items() if name == "other_kernel") == Site("train.py", 15, "train")
    assert found.copies["h2d_pageable"].site == Site("train.py", 15, "train")


def test_a_copy_that_item_makes_is_not_laid_to_the_line_that_moves_the_batch(tmp_path: Path) -> None:
    source = "def train(loader):\n    for x in loader:\n        x = x.to(device)\n        total += float(model(x))\n"

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start, data_ms=20.0)
        builder.python("train.py(1): train", start, 99)
        builder.op("aten::to", start + 3, 3)
        builder.copy(start + 5, 3, called=start + 4, call_ms=1)
        builder.op("aten::item", start + 55, 10)
        builder.op("aten::_local_scalar_dense", start + 55, 10)
        builder.copy(start + 60, 1, called=start + 56, call_ms=8, name="Memcpy DtoH (Device -> Pageable)", size=4)

    found = facts(training(step), tmp_path, source).device
    assert found is not None
    assert found.copies["d2h"].site == Site("train.py", 4, "train")
    assert found.copies["h2d_pageable"].site == Site("train.py", 3, "train")


def test_without_stacks_nothing_is_said_of_lines(tmp_path: Path) -> None:
    found = facts(training(waiting), tmp_path)
    assert found.device is not None
    assert all(call.site is None for call in found.device.syncs)
    assert not any(stage.lines for stage in found.stages.values())
    assert "with_stack" in found.not_measured["lines"]


nested = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 25)), max_size=14)


@given(nested, st.lists(st.integers(-2, 90), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_owners_are_the_innermost_events_around_each_moment(spans: list[tuple[int, int]], moments: list[int]) -> None:
    """Against a search through all events, where these nest."""
    kept: list[tuple[int, int]] = []
    for start, length in spans:
        end = start + length
        if all(end <= a or start >= b or (a <= start and end <= b) or (start <= a and b <= end) for a, b in kept):
            kept.append((start, end))
    start = np.array([a for a, _ in kept], dtype=np.int64)
    end = np.array([b for _, b in kept], dtype=np.int64)
    found = owners(start, end).at(np.array(moments, dtype=np.int64))
    for at, number in zip(moments, found.tolist(), strict=True):
        around = [b - a for a, b in kept if a <= at < b]
        if not around:
            assert number == -1
        else:
            assert start[number] <= at < end[number]
            assert end[number] - start[number] == min(around)


@given(nested, st.lists(st.integers(0, 90), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_an_owner_holds_the_moment_however_events_overlap(spans: list[tuple[int, int]], moments: list[int]) -> None:
    start = np.array([a for a, _ in spans], dtype=np.int64)
    end = np.array([a + length for a, length in spans], dtype=np.int64)
    found = owners(start, end).at(np.array(moments, dtype=np.int64))
    for at, number in zip(moments, found.tolist(), strict=True):
        assert number == -1 or start[number] <= at < end[number]


SCRIPT = """\
import sys
import time

import torch
from torch.profiler import profile, schedule


def statistics(rows):
    total = 0.0
    for row in rows:
        total += float(row.sum())
    time.sleep(0.05)
    return total


def main():
    torch.set_num_threads(1)
    model = torch.nn.Linear(32, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = torch.randn(40, 32)
    options = {"experimental_config": torch._C._profiler._ExperimentalConfig(verbose=True)} if VERBOSE else {}
    with profile(schedule=schedule(wait=1, warmup=1, active=4, repeat=1), with_stack=True, record_shapes=True,
                 profile_memory=True, on_trace_ready=lambda p: p.export_chrome_trace(sys.argv[1]), **options) as seen:
        for _ in range(7):
            loss = model(rows).pow(2).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            statistics(rows)
            seen.step()


VERBOSE = len(sys.argv) > 2
main()
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_a_training_recorded_here_names_its_slow_line(tmp_path: Path, verbose: bool) -> None:
    """The sleep takes most of each step: its line is told by its source, and its function without."""
    script, trace = tmp_path / "train.py", tmp_path / "it.json"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(trace), *(["verbose"] if verbose else [])]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=tmp_path)
    found = read_traces([trace])
    slowest = max(found.stages["other"].lines, key=lambda it: it.ms_per_step)
    assert (slowest.site, slowest.leaf) == (Site("train.py", 12, "statistics"), "sleep")
    assert slowest.ms_per_step >= 50
    finding = next(it for it in judge(found).findings if it.rule == "host/python-line")
    assert (finding.fix.file, finding.fix.line) == ("train.py", 12)
    assert {row["site"] for row in found.operators if row["name"] == "aten::sum" and row["stage"] == "other"} == {
        Site("train.py", 11, "statistics")
    }
    script.unlink()
    without = read_traces([trace])
    assert {line.site for line in without.stages["other"].lines if line.leaf == "sleep"} == {
        Site("train.py", 8, "statistics")
    }


def test_places_of_threads_are_their_own(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.python("train.py(3): main", 0, 50)
    builder.python("data.py(9): load", 10, 50, thread=ENGINE)
    recording = read_trace(builder.write(tmp_path / "made.json"))
    places = places_of(recording)
    track = {int(t.thread): number for number, t in enumerate(recording.tracks)}
    when = np.array([15, 15, 55, 55], dtype=np.int64) * 1_000_000
    threads = np.array([track[THREAD], track[ENGINE], track[THREAD], track[ENGINE]], dtype=np.int32)
    sites = [places.line(number).site.function if number >= 0 else None for number in places.at(when, threads).tolist()]
    assert sites == ["main", "load", None, "load"]
