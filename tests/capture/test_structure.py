"""What decides about a model's speed is read once, and asking changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from profiler.analysis.settings import settings_of
from profiler.capture import data_wait, forward, optimizer, settings, structure
from profiler.capture.session import CaptureConfig, Session
from profiler.record.reader import of_kind, read_notes


@contextmanager
def recording(tmp_path: Path) -> Iterator[Session]:
    session = Session(CaptureConfig(tmp_path))
    for part in (settings, data_wait, forward, structure, optimizer):
        part.install(session)
    try:
        yield session
    finally:
        assert session.active, "an error of ours ended the recording"
        session.close()


def train(model: nn.Module, inputs: torch.Tensor, parameters: Any = None, steps: int = 4) -> None:
    optimizer = torch.optim.SGD(parameters or model.parameters(), lr=0.1)
    for _ in range(steps):
        model(inputs).sum().backward()
        optimizer.step()


def extra(session: Session) -> dict[str, Any]:
    """What is known of the only root."""
    (root,) = settings_of(read_notes(session.folder())[0], frozenset()).roots
    return root.extra


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.plain = nn.Conv2d(6, 8, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm2(self.plain(torch.relu(self.norm(self.conv(x)))))
        return self.head(x.mean((2, 3)))


def test_layers_sizes_and_formats_are_read(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        train(Net(), torch.randn(2, 3, 8, 8))
    known = extra(session)
    assert (known["convolutions"], known["channels_last"]) == (2, False)
    assert (known["biased_before_norm"], known["biased_before_norm_names"]) == (1, ["conv"])
    assert known["odd_matrices"] == [{"name": "head", "shape": [10, 8]}]
    assert (known["odd_parameters"], known["matrix_parameters"]) == (80, 80)
    assert "not_updated_parameters" not in known


def test_a_model_in_channels_last_is_told(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        train(Net().to(memory_format=torch.channels_last), torch.randn(2, 3, 8, 8))
    assert extra(session)["channels_last"] is True


def test_parameters_that_get_gradients_and_are_in_no_optimizer_are_counted(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    with recording(tmp_path) as session:
        train(model, torch.randn(2, 8), model[2].parameters())
    known = extra(session)
    assert known["not_updated_parameters"] == known["not_updated_before"] == 144 + 272
    assert known["not_updated_first"] == "0"


def test_an_optimizer_that_steps_later_holds_its_parameters_already(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2))
    with recording(tmp_path) as session:
        rare = torch.optim.SGD(model[0].parameters(), lr=0.1)
        train(model, torch.randn(2, 8), model[1].parameters())
        del rare
    assert "not_updated_parameters" not in extra(session)


def test_what_comes_after_a_trained_part_is_told_apart(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2))
    with recording(tmp_path) as session:
        train(model, torch.randn(2, 8), model[0].parameters())
    assert (extra(session)["not_updated_parameters"], extra(session)["not_updated_before"]) == (34, 0)


def test_frozen_and_shared_and_lazy_parameters_are_borne(tmp_path: Path) -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.LazyLinear(8), shared, shared, nn.Linear(8, 8).requires_grad_(False))
    model(torch.randn(1, 4))
    with recording(tmp_path) as session:
        train(model, torch.randn(2, 4))
    assert extra(session)["matrix_parameters"] == 32 + 2 * 64  # the shared one counts once
    assert "not_updated_parameters" not in extra(session)


def test_the_compilers_counters_are_noted_at_the_end(tmp_path: Path) -> None:
    pytest.importorskip("torch._dynamo")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = nn.Linear(4, 2)
    with recording(tmp_path) as session:
        train(torch.compile(model, backend="eager"), torch.randn(2, 4), model.parameters())
    noted = {note["name"]: note["value"] for note in of_kind(read_notes(session.folder())[0], "setting")}
    assert noted["compiled_graphs"] >= 1
    assert noted["compiled_recompile_limit_hit"] is False
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


# the first batch


def first_batch(tmp_path: Path, batch: Any) -> list[dict[str, Any]]:
    with recording(tmp_path) as session:
        for _ in DataLoader([0, 1], batch_size=1, collate_fn=lambda _: batch):
            pass
    (note,) = of_kind(read_notes(session.folder())[0], "batch")
    return list(note["values"]["tensors"])


def test_floats_made_from_bytes_are_told_from_others(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64)).float().div(255).sub(0.45).div(0.22)
    noise = torch.randn(2, 3, 64, 64)
    told = first_batch(tmp_path, {"pixels": pixels, "rest": [noise, torch.zeros(5, dtype=torch.long)]})
    assert [tensor["from_bytes"] for tensor in told] == [True, False, None]
    assert (told[0]["dtype"], told[0]["bytes"], told[0]["shape"]) == ("float32", 98_304, [2, 3, 64, 64])


def test_channels_that_come_last_are_counted_one_by_one(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (2, 64, 64, 3)).float() / torch.tensor([1.0, 2.0, 3.0])
    assert first_batch(tmp_path, pixels)[0]["from_bytes"] is True


def test_batches_of_other_things_are_left_alone(tmp_path: Path) -> None:
    assert first_batch(tmp_path, ["text", 3, None]) == []
