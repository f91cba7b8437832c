"""On a device that runs behind the host, a host timer times the host.

A real loop under the real hooks, on a clock that the test turns: forward and backward queue work on a fake device
and return at once; the optimizer's step waits until the device has caught up. All of the device's work belongs to
forward and backward; all of the host's waiting lies in the optimizer.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from profiler.analysis.build import read_facts
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig
from profiler.record.run_folder import write_run_json
from profiler.report.html import render_html
from profiler.report.summary import summary
from profiler.report.terminal import print_result
from profiler.rules.base import Bottleneck
from profiler.rules.catalogue import judge
from profiler.rules.verdict import Result

MS = 1_000_000


class FakeDevice:
    """A queue in virtual time, and the host's clock beside it."""

    def __init__(self) -> None:
        self.host_ns = 1_000 * MS
        self.free_ns = 0

    def clock(self) -> int:
        self.host_ns += 1_000  # reading it takes a microsecond
        return self.host_ns

    def launch(self, work_ns: int) -> None:
        self.host_ns += MS // 10
        self.free_ns = max(self.free_ns, self.host_ns) + work_ns

    def synchronize(self) -> None:
        self.host_ns = max(self.host_ns, self.free_ns)


class Queues(nn.Module):
    """Its forward costs the device 20 ms and the host 0.1 ms; so does its backward, doubled."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.device = device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.device.launch(20 * MS)
        y = self.weight * x
        if y.requires_grad:
            y.register_hook(lambda grad: self.device.launch(40 * MS))
        return y


class WaitingSGD(torch.optim.SGD):
    """Reads a value back, as an optimizer that checks its gradients does."""

    device: FakeDevice

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.device.synchronize()
        super().step(closure)


def recorded(folder: Path) -> Result:
    device = FakeDevice()
    (folder / "processes").mkdir()
    write_run_json(folder, command=["python", "train.py"], cores=8)
    session = begin(CaptureConfig(folder, deep=False), clock=device.clock)
    try:
        model = Queues(device)
        optimizer = WaitingSGD(model.parameters(), lr=0.1)
        optimizer.device = device
        for _ in range(60):
            model(torch.ones(1)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        # last, since the settings have noted the CPU on which all of this really runs
        session.note("device", name="Fake accelerator", asynchronous=True, capacity_bytes=None, device_times=False)
    finally:
        end(session)
    facts = read_facts(folder)
    return Result(facts, judge(facts))


def test_a_stage_that_waits_for_queued_work_is_not_called_slow(tmp_path: Path) -> None:
    result = recorded(tmp_path)
    facts = result.facts
    assert facts.machine.asynchronous
    assert not facts.machine.device_times
    assert facts.stages["optimizer"].share > 0.9, "the host's own timers say that the optimizer takes it all"

    verdict = result.judgement.verdict
    assert verdict.bottleneck is not Bottleneck.OPTIMIZER
    assert "host times" in verdict.summary
    assert not [finding for finding in result.judgement.findings if finding.bottleneck is Bottleneck.OPTIMIZER]


def test_every_report_of_such_a_run_says_that_these_are_host_times(tmp_path: Path) -> None:
    result = recorded(tmp_path)
    assert summary(result)["clock"] == "host"
    terminal = io.StringIO()
    print_result(result, Console(file=terminal, width=100))
    assert "host times" in " ".join(terminal.getvalue().split())
    assert "host times" in render_html(result)
