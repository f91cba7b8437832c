"""What one step holds over into the next: gradients while forward runs, outputs until the next forward, or longer."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_session import recording
from torch import nn
from torch.nn.modules import module as torch_module

from profiler.record.reader import of_kind, read_notes

ROWS, COLUMNS = 512, 1024
OUTPUT_BYTES = 4 * ROWS * COLUMNS
WEIGHT_BYTES = 4 * (16 * COLUMNS + COLUMNS)
Loop = Callable[[nn.Module, torch.optim.Optimizer, torch.Tensor], None]


def notes_of(tmp_path: Path, loop: Loop) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The note of the measured step, and that of its outputs."""
    model = nn.Linear(16, COLUMNS)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    with recording(tmp_path) as session:
        loop(model, sgd, torch.randn(ROWS, 16))
    notes = read_notes(session.folder())[0]
    assert not torch_module._global_forward_pre_hooks
    [looked] = of_kind(notes, "memory")
    return looked, next(iter(of_kind(notes, "outputs")), None)


def late(model: nn.Module, sgd: torch.optim.Optimizer, data: torch.Tensor) -> None:
    for _ in range(12):
        output = model(data)
        sgd.zero_grad()
        output.sum().backward()
        sgd.step()


def early(model: nn.Module, sgd: torch.optim.Optimizer, data: torch.Tensor) -> None:
    for _ in range(12):
        output = model(data)
        output.sum().backward()
        sgd.step()
        sgd.zero_grad()
        del output


def cycle(model: nn.Module, sgd: torch.optim.Optimizer, data: torch.Tensor) -> None:
    gc.disable()
    try:
        for _ in range(12):
            output = model(data)
            ring: list[Any] = [output.detach()]
            ring.append(ring)
            sgd.zero_grad()
            output.sum().backward()
            sgd.step()
            ring[0] = output
            del output
    finally:
        gc.enable()
        gc.collect()


def test_a_name_that_is_bound_late_holds_gradients_and_outputs_through_forward(tmp_path: Path) -> None:
    looked, outputs = notes_of(tmp_path, late)
    assert looked["gradients_in_forward"] == WEIGHT_BYTES
    assert outputs is not None
    assert (outputs["made_bytes"], outputs["held_bytes"], outputs["outlived_bytes"]) == (OUTPUT_BYTES, OUTPUT_BYTES, 0)


def test_what_is_dropped_in_time_is_not_held(tmp_path: Path) -> None:
    looked, outputs = notes_of(tmp_path, early)
    assert looked["gradients_in_forward"] == 0
    assert outputs is not None
    assert (outputs["made_bytes"], outputs["held_bytes"], outputs["outlived_bytes"]) == (OUTPUT_BYTES, 0, 0)


def test_a_reference_cycle_outlives_the_next_step(tmp_path: Path) -> None:
    _, outputs = notes_of(tmp_path, cycle)
    assert outputs is not None
    assert outputs["outlived_bytes"] == OUTPUT_BYTES


@pytest.mark.parametrize("wrap", [lambda it: {"logits": it, "more": (it, [it])}, lambda it: (it, None)])
def test_outputs_are_found_in_what_holds_them_once_each(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    class Wrapped(nn.Linear):
        def forward(self, data: torch.Tensor) -> Any:
            return wrap(super().forward(data))

    model = Wrapped(16, COLUMNS)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.randn(ROWS, 16)
    with recording(tmp_path) as session:
        for _ in range(12):
            output = model(data)
            first = output["logits"] if isinstance(output, dict) else output[0]
            sgd.zero_grad()
            first.sum().backward()
            sgd.step()
    [outputs] = of_kind(read_notes(session.folder())[0], "outputs")
    assert outputs["held_bytes"] == OUTPUT_BYTES


def test_a_run_that_ends_in_between_leaves_no_hook(tmp_path: Path) -> None:
    model = nn.Linear(16, COLUMNS)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    with recording(tmp_path) as session:
        for _ in range(8):
            output = model(torch.randn(ROWS, 16))
            sgd.zero_grad()
            output.sum().backward()
            sgd.step()
            if of_kind(read_notes(session.folder())[0], "memory"):
                break
    assert not torch_module._global_forward_pre_hooks
    assert not torch_module._global_forward_hooks
