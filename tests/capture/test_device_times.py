"""Stage times on the device's own clock, against a fake device whose true timeline is known.

A real loop under the real hooks, on a clock that the test turns. What the host sees lies: forward and backward return
at once, and the optimizer waits for all that was queued.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_device import MS, FakeClock, FakeDevice
from torch import nn
from torch.utils.data import DataLoader, Dataset

from profiler.analysis.build import read_facts
from profiler.analysis.facts import Facts
from profiler.capture import device_times
from profiler.capture.device_clock import TorchClock, open_clock
from profiler.capture.gate import has_short_way, plain
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig, Session
from profiler.record.reader import of_kind, read_notes, read_stream
from profiler.record.run_folder import write_run_json
from profiler.record.vocabulary import DeviceEvent, Kind, Name
from profiler.report.summary import summary
from profiler.rules.base import Bottleneck
from profiler.rules.catalogue import judge
from profiler.rules.verdict import Result


class Items(Dataset[torch.Tensor]):
    """Each item costs the host's CPU 5 ms."""

    def __init__(self, device: FakeDevice, count: int, fetch_ns: int) -> None:
        self.device, self.count, self.fetch_ns = device, count, fetch_ns

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        self.device.work(self.fetch_ns)
        return torch.ones(1)


class Queues(nn.Module):
    """Its forward costs the device 20 ms and the host 0.1 ms; its backward twice as much of the device."""

    def __init__(self, device: FakeDevice, forward_ns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.device, self.forward_ns = device, forward_ns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.device.launch(self.forward_ns)
        y = self.weight * x
        if y.requires_grad:
            y.register_hook(lambda grad: self.device.launch(2 * self.forward_ns))
        return y


class WaitingSGD(torch.optim.SGD):
    """Reads a value back, and then queues 2 ms."""

    device: FakeDevice
    update_ns = 2 * MS

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.device.synchronize()
        self.device.launch(self.update_ns)
        super().step(closure)


def train(device: FakeDevice, steps: int, fetch_ns: int, forward_ns: int, each: Callable[[int], None]) -> nn.Module:
    model = Queues(device, forward_ns)
    optimizer = WaitingSGD(model.parameters(), lr=0.01)
    optimizer.device = device
    optimizer.update_ns = forward_ns // 10
    for number, x in enumerate(DataLoader(Items(device, steps, fetch_ns))):
        each(number)
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def record(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: FakeDevice,
    clock: FakeClock | None = None,
    steps: int = 60,
    fetch_ns: int = 5 * MS,
    forward_ns: int = 20 * MS,
    each: Callable[[int], None] = lambda number: None,
    meanwhile: Callable[[Session], None] = lambda session: None,
) -> nn.Module:
    monkeypatch.setattr(device_times, "training_device", lambda session: torch.device("cuda", 1))
    monkeypatch.setattr(device_times, "open_clock", lambda which: clock or FakeClock(device))
    (folder / "processes").mkdir()
    write_run_json(folder, command=["python", "train.py"], cores=8)
    session = begin(CaptureConfig(folder, deep=False), clock=device.clock)
    try:
        meanwhile(session)
        model = train(device, steps, fetch_ns, forward_ns, each)
        assert session.active, "an error of ours ended the recording"
        # last, since the settings have noted the CPU on which all of this really runs
        session.note("device", name="Fake accelerator", asynchronous=True, capacity_bytes=None, device_times=False)
    finally:
        end(session)
    return model


def process_folder(folder: Path) -> Path:
    return folder / "rank-00000" / str(os.getpid())


def shares(facts: Facts) -> dict[str, float]:
    return {name: stage.share for name, stage in facts.stages.items()}


def test_each_stage_has_the_devices_time_and_the_verdict_is_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, monkeypatch, FakeDevice(event_ns=0))
    facts = read_facts(tmp_path)
    assert facts.machine.device_times
    found = {name: stage.median_ms for name, stage in facts.stages.items()}
    # the device's 2 ms of the optimizer run while the host fetches for 5: of these 3 are exposed
    truth = {"data_wait": 3.0, "forward": 20.1, "backward": 40.0, "optimizer": 2.1, "other": 0.0}
    for name, ms in truth.items():
        assert found[name] == pytest.approx(ms, abs=0.05), name
    assert facts.steps is not None
    assert facts.steps.mean_ms == pytest.approx(65.2, abs=0.1)
    assert sum(stage.mean_ms for stage in facts.stages.values()) == pytest.approx(facts.steps.mean_ms, rel=1e-9)
    assert sum(shares(facts).values()) == pytest.approx(1.0, rel=1e-9)
    assert "device times" not in facts.not_measured
    assert any("device's own" in notice for notice in facts.notices)

    result = Result(facts, judge(facts))
    assert summary(result)["clock"] == "device"
    assert result.judgement.verdict.bottleneck is Bottleneck.COMPUTE
    assert "host times" not in result.judgement.verdict.summary


def test_where_the_host_is_late_the_device_idles_in_the_hosts_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, monkeypatch, FakeDevice(event_ns=0), fetch_ns=50 * MS, forward_ns=2 * MS)
    facts = read_facts(tmp_path)
    found = {name: stage.median_ms for name, stage in facts.stages.items()}
    assert found["data_wait"] == pytest.approx(50 - 0.2, abs=0.05)
    assert found["forward"] == pytest.approx(2.1, abs=0.05)
    assert found["backward"] == pytest.approx(4.0, abs=0.05)
    verdict = judge(facts).verdict  # what makes batches slow is on no virtual clock
    assert verdict.bottleneck is Bottleneck.DATA_LOADING
    assert "waits for batches" in verdict.summary


def test_a_host_that_launches_late_is_not_called_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward fill the step by the device's clock too, but it idles in them."""
    device = FakeDevice(event_ns=0)
    launch = device.launch

    def slowly(device_ns: int) -> None:
        device.work(10 * MS)
        launch(device_ns // 20)

    monkeypatch.setattr(device, "launch", slowly)
    monkeypatch.setattr(WaitingSGD, "step", lambda self, closure=None: torch.optim.SGD.step(self))
    record(tmp_path, monkeypatch, device, fetch_ns=0)
    facts = read_facts(tmp_path)
    assert facts.machine.device_times
    assert facts.stages["forward"].share + facts.stages["backward"].share > 0.9
    judgement = judge(facts)
    assert judgement.verdict.bottleneck is Bottleneck.NONE
    assert "waits for the host" in judgement.verdict.summary
    assert "compute/healthy" not in [finding.rule for finding in judgement.findings]


def test_the_parts_of_each_timed_step_sum_to_it_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from profiler.analysis.fold import collect

    record(tmp_path, monkeypatch, FakeDevice(), steps=200)
    rows = collect(process_folder(tmp_path), final=True).device_steps.columns()
    assert len(rows["index"]) >= 20
    assert sorted(set(rows["index"].tolist())) == rows["index"].tolist()
    parts = sum(column for name, column in rows.items() if name.startswith("part_"))
    assert (parts == rows["wall_ns"]).all()


@pytest.mark.parametrize("forward_ns", [MS // 10, 20 * MS])
def test_the_cost_stays_within_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forward_ns: int) -> None:
    device = FakeDevice(event_ns=2_000)
    began_ns = device.host_ns
    record(tmp_path, monkeypatch, device, steps=600, fetch_ns=0, forward_ns=forward_ns)
    assert device.spent_ns > 0
    # one window more than its share: its cost is known only once it was paid
    assert device.spent_ns <= 1.2 * device_times.BUDGET * (device.host_ns - began_ns) + 250 * device.event_ns
    facts = read_facts(tmp_path)
    assert facts.machine.device_times
    assert facts.overhead.us_per_step is not None
    assert facts.overhead.us_per_step >= device.spent_ns / 1e3 / 600


def test_events_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    clock = FakeClock(device)
    record(tmp_path, monkeypatch, device, clock, steps=300)
    assert clock.recorded > 3 * len(device.events)


def test_a_device_far_behind_is_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(WaitingSGD, "step", lambda self, closure=None: torch.optim.SGD.step(self))
    waits = device.synchronized
    record(tmp_path, monkeypatch, device, fetch_ns=0, each=lambda number: None)
    assert device.synchronized == waits
    assert not read_facts(tmp_path).machine.device_times, "the host was done before the device had reached anything"


def test_events_that_fail_leave_the_recording_and_the_host_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    device = FakeDevice()
    clock = FakeClock(device)
    clock.fails_at = 7
    record(tmp_path, monkeypatch, device, clock)
    facts = read_facts(tmp_path)
    assert facts.steps is not None
    assert facts.steps.count == 60
    assert not facts.machine.device_times
    assert "illegal memory access" in facts.not_measured["device times"]
    result = Result(facts, judge(facts))
    assert summary(result)["clock"] == "host"
    assert "host times" in result.judgement.verdict.summary
    assert clock.recorded == 7
    assert capfd.readouterr().err == ""


def test_nothing_is_recorded_or_asked_while_a_graph_is_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    clock = FakeClock(device)

    def each(number: int) -> None:
        clock.capturing = 10 <= number % 20 < 13

    record(tmp_path, monkeypatch, device, clock, steps=120, each=each)
    assert read_facts(tmp_path).machine.device_times


def test_a_window_whose_streams_overtake_one_another_never_runs_backwards() -> None:
    times = {"a": 0, "b": 50, "c": 20, "d": 60}
    clock: Any = SimpleNamespace(elapsed_ns=lambda earlier, later: times[later] - times[earlier])
    words = device_times._words(clock, device_times.Window([1, 2, 3, 4], list("abcd")))
    assert words[3::4] == [0, 50, 50, 60]
    assert words[1::4] == [1, 2, 3, 4]


def test_training_is_bit_identical_and_every_hook_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = train(FakeDevice(), 40, 0, MS, lambda number: None)
    sessions: list[Session] = []
    seen = record(tmp_path, monkeypatch, FakeDevice(), steps=40, fetch_ns=0, forward_ns=MS, meanwhile=sessions.append)
    for ours, theirs in zip(seen.parameters(), bare.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    (session,) = sessions
    assert {cell.cell_contents for cell in session._record_cells} == {session.plain_record}


def test_on_the_cpu_hooks_record_as_ever(tmp_path: Path) -> None:
    (tmp_path / "processes").mkdir()
    session = begin(CaptureConfig(tmp_path, deep=False))
    try:
        model = nn.Linear(2, 2)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(30):
            model(torch.ones(2)).sum().backward()
            sgd.step()
            assert session.record is session.plain_record
            assert {cell.cell_contents for cell in session._record_cells} == {session.plain_record}
        listening = [listener for _, listener in session._listeners]
        assert not [one for one in listening if isinstance(getattr(one, "__self__", None), device_times.DeviceTimes)]
    finally:
        end(session)
    unobserved = of_kind(read_notes(process_folder(tmp_path))[0], "unobserved")
    assert "device times" not in [note["what"] for note in unobserved]


def test_every_hook_that_keeps_record_is_known(tmp_path: Path) -> None:
    """Else its boundaries would be missing on the device."""
    (tmp_path / "processes").mkdir()
    session = begin(CaptureConfig(tmp_path, deep=False))
    try:
        nn.Linear(2, 2)(torch.ones(2))
        followed = {id(cell) for cell in session._record_cells}
        replaced = [plain(value) for _, _, _, value in session.patches._done]
        hooks = [value for value in replaced if hasattr(value, "__closure__")]
        kept = [
            cell
            for hook in hooks
            for name, cell in zip(hook.__code__.co_freevars, hook.__closure__ or (), strict=True)
            if name == "record"
        ]
        assert len(kept) > 10
        assert [cell for cell in kept if id(cell) not in followed] == []
    finally:
        end(session)


def test_the_child_of_a_fork_leaves_the_device_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    clock = FakeClock(device)
    ended: list[int] = []

    def fork(number: int) -> None:
        if number != 5:  # within the first window
            return
        sessions[0].drain()
        pid = os.fork()
        if pid == 0:
            before = clock.recorded
            code = 9
            try:
                train(device, 20, 0, MS, lambda number: None)
                code = 0 if clock.recorded == before and sessions[0].record is sessions[0].plain_record else 1
            finally:
                os._exit(code)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    sessions: list[Session] = []
    record(tmp_path, monkeypatch, device, clock, each=fork, meanwhile=sessions.append)
    assert ended == [0]


def test_parameters_on_several_devices_get_no_device_times(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")]
    optimizer = SimpleNamespace(param_groups=[{"params": [SimpleNamespace(device=device) for device in devices]}])
    holder = SimpleNamespace(living_optimizers=lambda: [optimizer])
    monkeypatch.setattr(device_times, "seen", lambda session: holder)
    session: Any = None
    assert "several devices" in str(device_times.training_device(session))
    del optimizer.param_groups[0]["params"][1]
    assert device_times.training_device(session) == torch.device("cuda", 0)


class Backend:
    """As `torch.cuda`: events that know their stream, and a `synchronize` that must not be called."""

    streams: list[tuple[int | None, str]]

    def __init__(self) -> None:
        outer = self
        self.made = 0
        self.records: list[tuple[Any, int | None]] = []

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                outer.made += 1

            def record(self, stream: tuple[str, int | None]) -> None:
                outer.records.append((self, stream[1]))

            def query(self) -> bool:
                return True

            def elapsed_time(self, later: Any) -> float:
                return 1.5

            def synchronize(self) -> None:
                raise AssertionError("waited for the device")

        self.Event = Event

    def current_stream(self, index: int | None) -> tuple[str, int | None]:
        return ("stream", index)

    def synchronize(self) -> None:
        raise AssertionError("waited for the device")


def test_torchs_events_are_recorded_on_the_current_stream_of_the_parameters_device() -> None:
    backend = Backend()
    clock = TorchClock(backend, 1)
    first, second = clock.record(), clock.record()
    assert clock.usable()
    assert clock.query(first)
    assert clock.elapsed_ns(first, second) == 1_500_000
    clock.give_back([first, second])
    clock.record()
    assert backend.made == 2
    assert [index for _, index in backend.records] == [1, 1, 1]


def test_a_device_without_events_that_can_be_read_without_waiting_says_so() -> None:
    assert "waiting" in str(open_clock(torch.device("mps")))
    assert "no timed events" in str(open_clock(torch.device("xla")))
    assert "not in use" in str(open_clock(torch.device("cuda")))
    assert not torch.cuda.is_initialized()


def test_the_devices_tape_names_host_times_that_the_training_thread_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, monkeypatch, FakeDevice())
    boundaries = read_stream(process_folder(tmp_path), "device")
    codes = boundaries[:, 0]
    host = boundaries[(codes & 0xFF) == Kind.MARK, 1]
    assert set(((codes >> 8) & 0xFFFF).tolist()) == {int(Name.DEVICE_EVENT), int(Name.DEVICE_NS)}
    thread = read_stream(process_folder(tmp_path), "thread-0")
    assert set(host.tolist()) <= set(thread[:, 1].tolist())


class Prompt:
    """A device as fast as the host, by the host's own clock."""

    def usable(self) -> bool:
        return True

    def record(self) -> int:
        return time.perf_counter_ns()

    def query(self, event: int) -> bool:
        return True

    def elapsed_ns(self, earlier: int, later: int) -> int:
        return later - earlier

    def give_back(self, events: Sequence[int]) -> None:
        pass


def test_during_a_window_no_boundary_goes_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real clock, where hooks have one: each start and end of a stage within a window is on both tapes."""
    monkeypatch.setattr(device_times, "training_device", lambda session: torch.device("cuda", 1))
    monkeypatch.setattr(device_times, "open_clock", lambda which: Prompt())
    monkeypatch.setattr(device_times, "BUDGET", 1 / 4)
    (tmp_path / "processes").mkdir()
    session = begin(CaptureConfig(tmp_path, deep=False))
    short: set[bool] = set()
    try:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        for x in DataLoader(torch.ones(400, 8)):
            model(x).sum().backward()
            sgd.step()
            sgd.zero_grad()
            short.add(session.gate.owner != 0)
    finally:
        end(session)
    assert short == {has_short_way(session), False}
    thread = read_stream(process_folder(tmp_path), "thread-0")
    kinds = thread[:, 0] & np.uint64(0xFF)
    stages = thread[(kinds == Kind.PUSH) | (kinds == Kind.POP), 1]
    tape = read_stream(process_folder(tmp_path), "device")
    details = tape[0::2, 0] >> np.uint64(24)
    host = tape[0::2, 1]
    firsts, lasts = host[details == DeviceEvent.FIRST], host[details == DeviceEvent.LAST]
    assert len(firsts) == len(lasts) > 2
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        within = stages[(stages >= first) & (stages <= last)]
        assert within.tolist() == host[(host >= first) & (host <= last)].tolist()


def test_steps_of_gradient_accumulation_are_timed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(event_ns=0)
    monkeypatch.setattr(device_times, "training_device", lambda session: torch.device("cuda", 1))
    monkeypatch.setattr(device_times, "open_clock", lambda which: FakeClock(device))
    (tmp_path / "processes").mkdir()
    session = begin(CaptureConfig(tmp_path, deep=False), clock=device.clock)
    try:
        model = Queues(device, 2 * MS)
        optimizer = WaitingSGD(copy.copy(list(model.parameters())), lr=0.01)
        optimizer.device = device
        for number, x in enumerate(DataLoader(Items(device, 200, 0))):
            model(x).sum().backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
        session.note("device", name="Fake accelerator", asynchronous=True, capacity_bytes=None, device_times=False)
    finally:
        end(session)
    facts = read_facts(tmp_path)
    assert facts.machine.device_times
    assert facts.steps is not None
    assert facts.steps.micro_batches == 4
    assert facts.stages["forward"].median_ms == pytest.approx(8.1, abs=0.1)
    assert facts.stages["backward"].median_ms == pytest.approx(16.0, abs=0.1)
