"""A device that runs out of memory leaves its explanation, and its error is the script's as ever.

There is no such device here: a fake stands where torch's allocator calls, and hands over snapshots whose truth the
tests' own allocator knows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "record"))

from snapshot_builder import MIB, Allocator, Training, module, snapshot

from profiler.analysis.build import read_facts
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig
from profiler.record import layout
from profiler.record.run_folder import write_run_json
from profiler.report.html import render_html
from profiler.rules.catalogue import judge
from profiler.rules.verdict import Result


class FakeDevice:
    """torch's side: initialises when told, and calls its observers before it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allocator: Allocator) -> None:
        self.allocator = allocator
        self.queued: list = []
        self.observers: list = []
        self.history: list = []
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "_lazy_call", lambda call, **_: self.queued.append(call))
        monkeypatch.setattr(torch._C, "_cuda_attach_out_of_memory_observer", self.observers.append, raising=False)
        monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda *_: snapshot(self.allocator))
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda *a, **k: self.history.append((a, k)))

    def initialise(self) -> None:
        for call in self.queued:
            call()

    def run_out(self, requested: int) -> None:
        try:
            self.allocator.alloc(requested, module(40, 13), "activations")
        except MemoryError:
            for observer in self.observers:
                observer(0, requested, self.allocator.capacity, self.allocator.capacity - self.allocator.reserved)
            raise torch.OutOfMemoryError("CUDA out of memory") from None
        raise AssertionError("it was to run out")


@pytest.fixture
def device(monkeypatch):
    training = Training(Allocator(capacity=400 * MIB)).build()
    training.steps(2)
    training.forward()
    return FakeDevice(monkeypatch, training.device)


def recorded(path: Path, device: FakeDevice, times: int = 1, **options) -> Path:
    run = path / "run"
    run.mkdir()
    session = begin(CaptureConfig(run, deep=False, **options))
    device.initialise()
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters())
    for _ in range(30):
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()
    for _ in range(times):
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            device.run_out(500 * MIB)
    end(session)
    write_run_json(run, command=["train.py"], name="run", cwd="/home/ada/gpt")
    return run


def test_what_held_the_memory_is_kept_and_told(tmp_path, device):
    facts = read_facts(recorded(tmp_path, device))
    assert facts.snapshot is not None
    (held,) = facts.snapshot.devices
    assert held.moment == "out of memory"
    assert held.ooms[-1].requested_bytes == 500 * MIB
    assert facts.notices[0] == "the device's memory ran out: see Memory"
    judgement = judge(facts)
    assert judgement.verdict.rule == "memory/out-of-memory"
    page = render_html(Result(facts, judgement))
    assert "When memory ran out" in page
    assert "model.py:12" in page


def test_without_events_the_failure_itself_is_what_torch_told(tmp_path, device):
    device.allocator.recording = False
    device.allocator.stacks = False
    device.allocator.trace = []
    run = recorded(tmp_path, device)
    facts = read_facts(run)
    (held,) = facts.snapshot.devices
    (failed,) = held.ooms
    assert (failed.requested_bytes, failed.held_bytes) == (500 * MIB, held.held_bytes)
    assert failed.site.file == __file__
    (finding,) = [it for it in judge(facts).findings if it.rule == "memory/out-of-memory"]
    assert "what for is not known" in finding.why


def test_a_script_that_goes_on_keeps_the_last_and_at_most_a_few(tmp_path, device):
    run = recorded(tmp_path, device, times=30)
    kept = list(run.rglob("*.pickle*"))
    assert [path.name for path in kept] == [layout.OUT_OF_MEMORY]
    assert read_facts(run).notices[0] == "the device's memory ran out 5 times: see Memory"


def test_an_error_of_ours_never_takes_the_place_of_the_scripts(tmp_path, device, monkeypatch):
    def broken(*_):
        raise RuntimeError("no snapshot")

    monkeypatch.setattr(torch.cuda.memory, "_snapshot", broken)
    facts = read_facts(recorded(tmp_path, device))  # which asserts that the script's own error comes out
    assert facts.snapshot is None
    assert "could not be kept" in facts.notices[0]
    assert "no snapshot" in facts.not_measured["out of memory"]


def test_a_torch_without_observers_initialises_all_the_same(tmp_path, device, monkeypatch):
    monkeypatch.delattr(torch._C, "_cuda_attach_out_of_memory_observer", raising=False)
    facts = read_facts(recorded(tmp_path, device))
    assert facts.snapshot is None
    assert "would not tell" in facts.not_measured["out of memory"]


def test_stacks_are_recorded_where_asked_for_alone_and_no_longer_than_the_session(tmp_path, device):
    (tmp_path / "a").mkdir()
    recorded(tmp_path / "a", device)
    assert device.history == []
    device.queued.clear()
    device.observers.clear()
    (tmp_path / "b").mkdir()
    recorded(tmp_path / "b", device, memory_history=True)
    (start, how), (stop, _) = device.history
    assert (start, stop) == (("all",), (None,))
    assert how["stacks"] == "python"


def test_after_the_session_nothing_is_kept(tmp_path, device):
    run = recorded(tmp_path, device)
    (kept,) = run.rglob(layout.OUT_OF_MEMORY)
    kept.unlink()
    with pytest.raises(torch.OutOfMemoryError):
        device.run_out(500 * MIB)
    assert list(run.rglob(layout.OUT_OF_MEMORY)) == []


def test_a_damaged_snapshot_is_one_sentence(tmp_path, device):
    run = recorded(tmp_path, device)
    (kept,) = run.rglob(layout.OUT_OF_MEMORY)
    kept.write_bytes(kept.read_bytes()[:100])
    facts = read_facts(run)
    assert facts.snapshot is None
    assert "cut short" in facts.notices[0]


def test_a_build_of_torch_for_the_cpu_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    called = []
    monkeypatch.setattr(torch.cuda, "_lazy_call", lambda call, **_: called.append(call))
    end(begin(CaptureConfig(tmp_path, deep=False)))
    assert called == []
