"""Denormal numbers in optimizers' states are found, timed on copies, and nothing of the training is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from profiler.capture import denormals, optimizer, settings
from profiler.capture.session import CaptureConfig, Session
from profiler.record.reader import of_kind, read_notes


@contextmanager
def recording(tmp_path: Path, deep: bool = True) -> Iterator[Session]:
    session = Session(CaptureConfig(tmp_path, deep=deep))
    for part in (settings, optimizer, denormals):
        part.install(session)
    try:
        yield session
    finally:
        assert session.active, "an error of ours ended the recording"
        session.close()


def noted(session: Session) -> list[dict[str, Any]]:
    notes = of_kind(read_notes(session.folder())[0], "setting")
    return [note["value"] for note in notes if note["name"] == "denormals"]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, fade_at: int = -1) -> None:
    """Without gradients but zero; at one step the moments of three quarters of the weights become denormal."""
    for step in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if step == fade_at:
            moments = optimizer.state[model.weight]["exp_avg"].view(-1)
            moments[: 3 * len(moments) // 4] = 5.6e-45  # four times the smallest: it stays


def test_denormals_are_told_by_their_bits() -> None:
    numbers = torch.tensor([0.0, -0.0, 1.0, 1e-38, 1.2e-38, -3e-40, 1e-45, float("inf"), float("nan")])
    assert denormals.is_denormal(numbers).tolist() == [False, False, False, True, False, True, True, False, False]


@pytest.mark.parametrize("fused", [False, True])
def test_moments_that_faded_are_noted_with_what_they_cost(tmp_path: Path, fused: bool) -> None:
    model = nn.Linear(64, 64, bias=False)
    with recording(tmp_path) as session:
        train(model, torch.optim.Adam(model.parameters(), fused=fused), 300, fade_at=200)
    (value,) = noted(session)
    assert (value["state"], value["share"]) == ("exp_avg", pytest.approx(0.75, abs=0.02))
    assert value["slowdown"] > 0


def test_the_next_look_is_twice_as_late(tmp_path: Path) -> None:
    model = nn.Linear(64, 64, bias=False)
    with recording(tmp_path) as session:
        train(model, torch.optim.Adam(model.parameters()), 520, fade_at=300)
    assert len(noted(session)) == 1  # not at 256, but at 512


def test_ordinary_moments_and_a_shallow_recording_say_nothing(tmp_path: Path) -> None:
    model = nn.Linear(64, 64, bias=False)
    with recording(tmp_path / "deep") as session:
        train(model, torch.optim.Adam(model.parameters()), 300)
    assert noted(session) == []
    with recording(tmp_path / "shallow", deep=False) as session:
        train(model, torch.optim.Adam(model.parameters()), 300, fade_at=200)
    assert noted(session) == []


def test_a_look_changes_neither_states_nor_random_numbers(tmp_path: Path) -> None:
    def trained(folder: Path | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(64, 64, bias=False)
        adam = torch.optim.Adam(model.parameters(), fused=True)
        if folder is None:
            train(model, adam, 300, fade_at=200)
        else:
            with recording(folder):
                train(model, adam, 300, fade_at=200)
        return model.weight.detach(), adam.state[model.weight]["exp_avg"], torch.get_rng_state()

    for plain, watched in zip(trained(None), trained(tmp_path), strict=True):
        assert torch.equal(plain, watched)
