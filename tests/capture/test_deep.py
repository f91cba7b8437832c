"""The deep window against counts known from the model, and against profilers of the user's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from profiler.analysis.trace.facts import facts_of
from profiler.capture import backward, data_wait, deep, forward, optimizer
from profiler.capture.operators import watched
from profiler.capture.recent import StageTimes, count_steps
from profiler.capture.session import CaptureConfig, Session
from profiler.record.reader import of_kind, read_notes, read_stream
from profiler.record.trace.read import read_trace
from profiler.record.vocabulary import Instrument, Kind, Name, code


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "_FIRST_NS", 0)
    monkeypatch.setattr(deep, "_HEAVY_NS", 1 << 62)  # a busy machine makes any step slow


@contextmanager
def recording(tmp_path: Path, deep_window: bool = True) -> Iterator[Session]:
    session = Session(CaptureConfig(tmp_path, deep=deep_window))
    for part in (data_wait, forward, backward, optimizer, deep):
        part.install(session)
    try:
        yield session
    finally:
        assert session.active, "an error of ours ended the recording"
        session.close()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))


def train(model: nn.Module, steps: int, epochs: int = 1) -> None:
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    torch.manual_seed(1)
    loader = DataLoader(TensorDataset(torch.randn(4 * steps, 10)), batch_size=4)
    for _ in range(epochs):
        for (data,) in loader:
            loss = torch.nn.functional.softplus(model(data)).sum()
            sgd.zero_grad()
            loss.backward()
            sgd.step()


def notes(session: Session, kind: str) -> list[dict[str, Any]]:
    return of_kind(read_notes(session.folder())[0], kind)


def test_operators_are_counted_per_step_in_the_stage_that_called_them(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        train(mlp(), steps=40)
    [note] = notes(session, "operators")
    assert note["steps"] == 3
    calls = {(row["name"], row["stage"]): row["calls_per_step"] for row in note["rows"]}
    assert calls["aten::addmm", "forward"] == 2
    assert calls["aten::softplus", "forward"] == 1
    assert calls["aten::mm", "backward"] == 3  # both weights, and the input of the second layer
    assert all(row["ms_per_step"] >= 0 for row in note["rows"])
    assert {row["device"] for row in note["rows"]} == {"cpu"}
    assert any(name.startswith("Optimizer.step#SGD") and stage == "optimizer" for name, stage in calls)
    assert any(name.startswith("enumerate(DataLoader)") and stage == "data_wait" for name, stage in calls)


def test_one_step_is_enough_where_watching_slows_it_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "_HEAVY_NS", -(1 << 62))  # as if any step were slowed down by a lot
    monkeypatch.setattr(deep, "_HEAVY_SHARE", -1e18)
    freed: list[bool] = []
    monkeypatch.setattr(deep, "_MANY_EVENTS", 1)
    monkeypatch.setattr(deep, "_give_back_memory", lambda: freed.append(True))
    with recording(tmp_path) as session:
        train(mlp(), steps=40)
    [note] = notes(session, "operators")
    assert note["steps"] == 1 and freed
    assert {row["name"]: row["calls_per_step"] for row in note["rows"]}["aten::addmm"] == 2


def test_nothing_is_written_to_the_users_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with recording(tmp_path) as session:
        train(mlp(), steps=40)
    assert notes(session, "operators")
    assert capfd.readouterr() == ("", "")


def test_a_functional_loss_belongs_to_forward() -> None:
    forward_push, forward_pop = code(Kind.PUSH, Name.FORWARD), code(Kind.POP, Name.FORWARD)
    backward_push, backward_pop = code(Kind.PUSH, Name.BACKWARD), code(Kind.POP, Name.BACKWARD)
    stages = StageTimes([(forward_push, 10), (forward_pop, 20), (backward_push, 30), (backward_pop, 40)])
    assert [stages.at(time_ns) for time_ns in (5, 15, 25, 35, 45)] == [
        "other",
        "forward",
        "forward",
        "backward",
        "other",
    ]


def test_steps_are_those_of_the_optimizer_that_steps_least() -> None:
    critic, generator = (code(Kind.POP, Name.OPTIMIZER, 1, number) for number in (0, 1))
    assert count_steps([(critic, 1), (critic, 2), (generator, 3), (critic, 4), (critic, 5), (generator, 6)]) == 2
    assert count_steps([(code(Kind.MARK, Name.STEP), 1), (critic, 2), (critic, 3)]) == 1


def test_each_step_of_the_window_is_marked_as_ours(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        train(mlp(), steps=40)
    codes = [int(word) for word in read_stream(session.folder(), "thread-0")[:, 0]]
    push = code(Kind.PUSH, Name.INSTRUMENT, Instrument.DEEP_WINDOW)
    stepped = [at for at, word in enumerate(codes) if word == code(Kind.POP, Name.OPTIMIZER, 1)]
    assert [sum(at < mark for at in stepped) for mark, word in enumerate(codes) if word == push] == [30, 31, 32, 33]
    assert codes.count(code(Kind.POP, Name.INSTRUMENT, Instrument.DEEP_WINDOW)) == 4
    assert not torch._C._autograd._profiler_enabled()


def test_parameters_are_bit_identical_with_and_without(tmp_path: Path) -> None:
    bare, seen = (model := mlp()), copy.deepcopy(model)
    train(bare, steps=40)
    state = torch.random.get_rng_state()
    with recording(tmp_path) as session:
        train(seen, steps=40)
    assert notes(session, "operators")
    assert torch.equal(torch.random.get_rng_state(), state)
    for ours, theirs in zip(seen.parameters(), bare.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_profiler_of_the_users_that_starts_inside_the_window_gets_its_way(tmp_path: Path) -> None:
    model = mlp()
    with recording(tmp_path) as session:
        train(model, steps=31)
        assert torch._C._autograd._profiler_enabled()
        with torch.autograd.profiler.profile() as theirs:
            train(model, steps=2)
        assert any("addmm" in row.key for row in theirs.key_averages())
        train(model, steps=30)
    assert len(notes(session, "operators")) == 1  # we tried again once theirs had ended


def test_a_profiler_of_the_users_that_is_active_is_left_alone(tmp_path: Path) -> None:
    with recording(tmp_path) as session, torch.autograd.profiler.profile() as theirs:
        train(mlp(), steps=100)
    assert theirs.key_averages()
    assert notes(session, "operators") == []
    assert notes(session, "unobserved")[0]["what"] == "operators"


def test_the_window_closes_where_an_epoch_begins_and_opens_again(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        train(mlp(), steps=31, epochs=3)
    [note] = notes(session, "operators")
    assert note["steps"] == 3


def test_a_session_that_ends_inside_the_window_stops_the_profiler(tmp_path: Path) -> None:
    with recording(tmp_path):
        train(mlp(), steps=31)
        assert torch._C._autograd._profiler_enabled()
    assert not torch._C._autograd._profiler_enabled()


def test_no_window_opens_unless_the_session_looks_deep(tmp_path: Path) -> None:
    with recording(tmp_path, deep_window=False) as session:
        train(mlp(), steps=40)
    assert notes(session, "operators") == []


@dataclass
class Recorded:
    """An event as kineto gives it."""

    label: str
    start: int
    length: int
    device: str = "DeviceType.CPU"
    thread: int = 1
    correlation: int = 0
    launch: int = 0

    def name(self) -> str:
        return self.label

    def start_ns(self) -> int:
        return self.start

    def duration_ns(self) -> int:
        return self.length

    def device_type(self) -> str:
        return self.device

    def is_async(self) -> bool:
        return False

    def start_thread_id(self) -> int:
        return self.thread

    def correlation_id(self) -> int:
        return self.correlation

    def linked_correlation_id(self) -> int:
        return self.launch

    def shapes(self) -> list[list[int]]:
        return []

    def concrete_inputs(self) -> list[Any]:
        return []


def test_an_operators_time_is_its_own_and_a_kernel_belongs_to_its_launch() -> None:
    events = [
        Recorded("aten::linear", 0, 100),
        Recorded("aten::addmm", 10, 60, correlation=7),
        Recorded("aten::t", 80, 5),
        Recorded("gemm", 500, 2_000, device="DeviceType.CUDA", launch=7),
        Recorded("aten::mul", 1_000, 50, thread=2),
    ]
    rows = watched(events, lambda time_ns: "forward" if time_ns < 200 else "backward", steps=1).rows
    seen = {row["name"]: (row["stage"], row["device"], round(row["ms_per_step"] * 1e6)) for row in rows}
    assert seen == {
        "gemm": ("forward", "cuda", 2_000),
        "aten::addmm": ("forward", "cpu", 60),
        "aten::mul": ("backward", "cpu", 50),
        "aten::linear": ("forward", "cpu", 35),
        "aten::t": ("forward", "cpu", 5),
    }
    assert rows[0]["name"] == "gemm"


def test_threads_are_named_by_what_they_run(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        train(mlp(), steps=40)
    [note] = notes(session, "operators")
    first = note["threads"][0]
    assert first["role"] == "training thread"
    assert 0 < first["ms_per_step"] <= note["watched_ms"]
    assert sum(row["ms_per_step"] for row in note["rows"]) <= note["watched_ms"] * len(note["threads"])


def test_the_operations_of_a_step_are_counted(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        train(mlp(), steps=40)
    [note] = notes(session, "operators")
    forward = 2 * 4 * (10 * 20 + 20 * 5)
    gradients = forward + 2 * 4 * 20 * 5  # of both weights, and of the second layer's input
    assert note["flops"] == 3 * (forward + gradients)


def test_a_run_that_changes_is_looked_at_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    class Changed:
        step_ms = 7.0
        changed = True

        def __init__(self, clock: Any) -> None:
            pass

        def look(self, steps: int) -> int:
            looks.append(steps)
            return steps + 8

    monkeypatch.setattr(deep, "Pace", Changed)
    with recording(tmp_path) as session:
        train(mlp(), steps=120)
    first, second = notes(session, "operators")
    assert second["at_step"] > first["at_step"]
    assert second["before_ms"] == 7.0
    assert len(looks) == 2


class FakeAccelerator:
    """Stands for `torch.cuda`: in use, and to be waited for only when the window closes."""

    waited = 0

    def is_initialized(self) -> bool:
        return True

    def is_current_stream_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        self.waited += 1


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> FakeAccelerator:
    """torch's profiler watches the CPU alone here: everything else is as on an accelerator."""
    backend = FakeAccelerator()
    real = deep.autograd_profiler.profile
    monkeypatch.setattr(deep, "device_in_use", lambda session: "fake")
    monkeypatch.setattr(torch, "fake", backend, raising=False)

    def profile(use_device: str | None, **arguments: Any) -> Any:
        assert use_device == "fake"
        return real(use_device=None, **arguments)

    monkeypatch.setattr(deep.autograd_profiler, "profile", profile)
    return backend


def test_on_a_device_the_window_is_kept_as_a_trace_with_its_steps_marked(
    tmp_path: Path, on_a_device: FakeAccelerator
) -> None:
    with recording(tmp_path) as session:
        train(mlp(), steps=40)
    [note] = notes(session, "operators")
    assert note["file"] == "window-0.json"
    assert on_a_device.waited == 1
    traced = facts_of(read_trace(session.folder() / note["file"]))
    assert traced.facts.steps is not None
    assert traced.facts.steps.count == 3
    assert not [row for row in note["rows"] if row["name"].startswith("ProfilerStep")]


def test_a_window_with_too_many_events_is_tried_with_one_step_and_then_not_kept(
    tmp_path: Path, on_a_device: FakeAccelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep, "_MOST_EVENTS", 20)
    with recording(tmp_path) as session:
        train(mlp(), steps=100)
    [note] = notes(session, "operators")
    assert note["steps"] == 1
    assert note["file"] is None
    assert [said["what"] for said in notes(session, "unobserved")] == ["device window"]
    assert not list(session.folder().glob("window-*"))


def test_a_profiler_that_fails_leaves_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*arguments: Any) -> Any:
        raise AttributeError("'_KinetoEvent' object has no attribute 'shapes'")

    monkeypatch.setattr(deep, "watched", unreadable)
    with recording(tmp_path) as session:
        train(mlp(), steps=120)
    assert not torch._C._autograd._profiler_enabled()
    [said] = notes(session, "unobserved")
    assert said["what"] == "operators"
    assert "no attribute 'shapes'" in said["why"]


def test_a_profiler_that_would_not_start_leaves_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("CUPTI_ERROR_NOT_INITIALIZED")

    monkeypatch.setattr(deep.autograd_profiler, "profile", refuse)
    with recording(tmp_path) as session:
        train(mlp(), steps=120)
    [said] = notes(session, "unobserved")
    assert "CUPTI_ERROR" in said["why"]


def test_a_device_that_the_profiler_cannot_watch_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "training_device", lambda session: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    session: Any = None
    assert deep.device_in_use(session) is None
    monkeypatch.setattr(
        torch.autograd, "_supported_activities", lambda: {"ProfilerActivity.CPU", "ProfilerActivity.CUDA"}
    )
    assert deep.device_in_use(session) == "cuda"
    monkeypatch.setattr(deep, "training_device", lambda session: torch.device("cpu"))
    assert deep.device_in_use(session) is None
