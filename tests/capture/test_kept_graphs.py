"""Trainings that keep the graphs of past steps, and some that only look so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from profiler.analysis.build import read_facts
from profiler.analysis.facts import KeptGraph
from profiler.capture.install import begin, end
from profiler.capture.kept_graphs import KeptGraphs
from profiler.capture.session import CaptureConfig
from profiler.record.run_folder import write_run_json

STEPS = 60
kept_outputs: list[Any] = []


def kept_by(
    monkeypatch: pytest.MonkeyPatch, folder: Path, each_step: Callable[[torch.Tensor, torch.Tensor], None]
) -> list[KeptGraph]:
    """What is found to be kept by a training of which each step ends so; memory counts as grown."""
    grown = iter(range(0, 1 << 40, 1 << 30))
    monkeypatch.setattr(KeptGraphs, "_used_bytes", lambda self: next(grown) + 1)
    (folder / "processes").mkdir()
    write_run_json(folder, command=["python", "loop.py"], cores=2)
    session = begin(CaptureConfig(folder))
    kept_outputs.clear()
    try:
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(STEPS):
            output = model(torch.randn(4, 8))
            loss = output.mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            each_step(output, loss)
        assert session.active
    finally:
        end(session)
        kept_outputs.clear()
    return list(read_facts(folder).memory.kept_graphs)


def test_a_global_list_is_found_by_its_name_and_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def each_step(output: torch.Tensor, loss: torch.Tensor) -> None:
        kept_outputs.append(output)

    [kept] = kept_by(monkeypatch, tmp_path, each_step)
    assert (kept.what, kept.name) == ("list", "kept_outputs")
    assert kept.count >= 40
    assert kept.bytes_each == 16
    assert kept.site is not None
    assert Path(kept.site.file) == Path(__file__)
    line = Path(__file__).read_text().splitlines()[kept.site.line - 1]
    assert line.strip() == "kept_outputs" + ".append(output)"


def test_a_list_that_grows_every_fourth_step_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("profiler.capture.kept_graphs._FEWEST", 4)
    steps = iter(range(STEPS))

    def each_step(output: torch.Tensor, loss: torch.Tensor) -> None:
        if next(steps) % 4 == 0:
            list.append(kept_outputs, output)  # the line of the test above stays the only one of its kind

    [kept] = kept_by(monkeypatch, tmp_path, each_step)
    assert (kept.what, kept.name) == ("list", "kept_outputs")


def test_an_attribute_that_holds_dicts_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Trainer:
        def __init__(self) -> None:
            self.records: list[dict[str, Any]] = []

    trainer = Trainer()

    def each_step(output: torch.Tensor, loss: torch.Tensor) -> None:
        trainer.records.append({"step": len(trainer.records), "loss": loss})

    [kept] = kept_by(monkeypatch, tmp_path, each_step)
    assert kept.name == "records"


def test_a_sum_of_losses_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    total = torch.zeros(())

    def each_step(output: torch.Tensor, loss: torch.Tensor) -> None:
        nonlocal total
        total = total + loss

    [kept] = kept_by(monkeypatch, tmp_path, each_step)
    assert kept.what == "sum"
    assert kept.count >= 40


def test_tensors_without_their_graphs_and_long_lists_are_let_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    numbers: list[Any] = []
    blocks = [torch.randn(3, requires_grad=True) * 2 for _ in range(100)]  # they have graphs, but get no longer

    def each_step(output: torch.Tensor, loss: torch.Tensor) -> None:
        numbers.append((output.detach(), loss.item(), len(blocks)))

    assert kept_by(monkeypatch, tmp_path, each_step) == []


def test_nothing_is_looked_through_while_memory_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("profiler.capture.kept_graphs.gc.get_objects", lambda: pytest.fail("looked"))
    session = begin(CaptureConfig(tmp_path))
    try:
        model = nn.Linear(8, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(STEPS):
            model(torch.randn(4, 8)).mean().backward()
            optimizer.step()
        assert session.active
    finally:
        end(session)
