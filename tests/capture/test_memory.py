"""Activation bytes against sums made by hand, and trainings that the measurement must leave alone."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_session import recording
from torch import nn
from torch.utils.checkpoint import checkpoint

from profiler.capture.session import Session
from profiler.record.reader import of_kind, read_notes, read_stream
from profiler.record.vocabulary import Instrument, Kind, Name, code

FLOAT = 4


def memory_notes(session: Session) -> list[dict[str, Any]]:
    return of_kind(read_notes(session.folder())[0], "memory")


def unobserved(session: Session) -> dict[str, str]:
    return {note["what"]: note["why"] for note in of_kind(read_notes(session.folder())[0], "unobserved")}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], torch.Tensor], steps: int = 8) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        step().backward()
        optimizer.step()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))


def test_categories_of_an_mlp_under_adam_are_exact(tmp_path: Path) -> None:
    model, batch = mlp(), 8
    parameters = (10 * 20 + 20 + 20 * 5 + 5) * FLOAT
    adam = torch.optim.Adam(model.parameters())
    data = torch.randn(batch, 10)
    with recording(tmp_path) as session:
        train(model, adam, lambda: model(data).sum())
    [note] = memory_notes(session)
    # Linear keeps its input, ReLU its output: which is the input of the next Linear
    activations = (batch * 10 + batch * 20) * FLOAT
    assert note["categories"] == {
        "parameters": parameters,
        "gradients": parameters,
        "optimizer": 2 * parameters + 4 * FLOAT,  # two moments, and a step counter for each of 4 tensors
        "activations": activations,
    }
    assert dict(map(tuple, note["activations_by_module"])) == {
        "0 (Linear)": batch * 10 * FLOAT,
        "1 (ReLU)": batch * 20 * FLOAT,
    }
    assert note["step_time_ns"] > 0


def test_micro_batches_do_not_add_up_since_their_graphs_are_freed(tmp_path: Path) -> None:
    model, data = mlp(), torch.randn(8, 10)
    sgd = torch.optim.SGD(model.parameters())

    def accumulate() -> torch.Tensor:
        for _ in range(3):
            model(torch.randn(8, 10)).sum().backward()
        return model(data).sum()

    with recording(tmp_path) as session:
        train(model, sgd, accumulate)
    [note] = memory_notes(session)
    assert note["categories"]["activations"] == (8 * 10 + 8 * 20) * FLOAT
    assert note["categories"]["optimizer"] == 0


def test_frozen_parameters_count_as_parameters_only(tmp_path: Path) -> None:
    model, data = mlp(), torch.randn(8, 10)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    sgd = torch.optim.SGD(model[2].parameters(), momentum=0.9)
    with recording(tmp_path) as session:
        train(model, sgd, lambda: model(data).sum())
    [note] = memory_notes(session)
    trained = (20 * 5 + 5) * FLOAT
    assert note["categories"]["parameters"] == (10 * 20 + 20) * FLOAT + trained
    assert note["categories"]["gradients"] == trained
    assert note["categories"]["optimizer"] == trained


def test_lbfgs_states_in_lists_are_counted(tmp_path: Path) -> None:
    model, data = nn.Linear(4, 1, bias=False), torch.randn(8, 4)
    lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=4)

    def closure() -> torch.Tensor:
        lbfgs.zero_grad()
        loss = model(data).pow(2).sum()
        loss.backward()
        return loss

    with recording(tmp_path) as session:
        for _ in range(8):
            lbfgs.step(closure)
    [note] = memory_notes(session)
    assert note["categories"]["optimizer"] >= 3 * 4 * FLOAT
    assert note["categories"]["activations"] > 0


def test_two_optimizers_share_one_window(tmp_path: Path) -> None:
    generator, critic = nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False)
    first, second = torch.optim.SGD(generator.parameters()), torch.optim.SGD(critic.parameters())
    with recording(tmp_path) as session:
        for _ in range(8):
            train(critic, second, lambda: critic(torch.randn(8, 4)).sum(), steps=1)
            train(generator, first, lambda: critic(generator(torch.randn(16, 4))).sum(), steps=1)
    [note] = memory_notes(session)
    assert note["categories"]["parameters"] == (16 + 4) * FLOAT
    assert note["categories"]["activations"] >= (16 * 4) * FLOAT


def test_the_measured_step_is_marked_as_ours(tmp_path: Path) -> None:
    model = mlp()
    with recording(tmp_path) as session:
        train(model, torch.optim.SGD(model.parameters()), lambda: model(torch.randn(8, 10)).sum())
    codes = [int(word) for word in read_stream(session.folder(), "thread-0")[:, 0]]
    push = code(Kind.PUSH, Name.INSTRUMENT, Instrument.MEMORY_STEP)
    stepped = [at for at, word in enumerate(codes) if word == code(Kind.POP, Name.OPTIMIZER, 1)]
    marked = [at for at, word in enumerate(codes) if word == push]
    assert [sum(at < mark for at in stepped) for mark in marked] == [6, 7]
    assert codes.count(code(Kind.POP, Name.INSTRUMENT, Instrument.MEMORY_STEP)) == 2


def test_nothing_is_measured_unless_the_session_looks_deep(tmp_path: Path) -> None:
    model = mlp()
    with recording(tmp_path, deep=False) as session:
        train(model, torch.optim.SGD(model.parameters()), lambda: model(torch.randn(8, 10)).sum())
    assert memory_notes(session) == []


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(value)
        return value**3

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def plain(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(8, 10)).pow(2).sum()


def in_place(model: nn.Module) -> torch.Tensor:
    return torch.relu_(model(torch.randn(8, 10)).mul_(2).add_(1)).sum()


def double_backward(model: nn.Module) -> torch.Tensor:
    data = torch.randn(8, 10, requires_grad=True)
    loss = torch.tanh(model(data)).sum()
    [slope] = torch.autograd.grad(loss, data, create_graph=True)
    return loss + slope.pow(2).sum()


def checkpointed(reentrant: bool) -> Callable[[nn.Module], torch.Tensor]:
    def loss(model: nn.Module) -> torch.Tensor:
        data = torch.randn(8, 10, requires_grad=True)
        hidden = checkpoint(lambda x: torch.dropout(model[1](model[0](x)), 0.3, True), data, use_reentrant=reentrant)
        return model[2](hidden).sum()

    return loss


def custom_function(model: nn.Module) -> torch.Tensor:
    return Cube.apply(model(torch.randn(8, 10))).sum()


def offloaded(model: nn.Module) -> torch.Tensor:
    with torch.autograd.graph.save_on_cpu():
        return model(torch.randn(8, 10)).exp().sum()


def functional_transforms(model: nn.Module) -> torch.Tensor:
    def squared(value: torch.Tensor) -> torch.Tensor:
        return value.pow(2).sum()

    return torch.func.grad(squared)(torch.randn(3)).sum() + plain(model)


def partly_without_grad(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        teacher = model(torch.randn(8, 10))
    return (model(torch.randn(8, 10)) - teacher).pow(2).sum()


def retained(model: nn.Module) -> torch.Tensor:
    loss = plain(model)
    loss.backward(retain_graph=True)
    return loss


def raising_inside(model: nn.Module) -> torch.Tensor:
    try:
        model(torch.randn(8, 11))
    except RuntimeError:
        pass
    return plain(model)


SHAPES = {
    "plain": plain,
    "in-place": in_place,
    "double backward": double_backward,
    "checkpoint, reentrant": checkpointed(True),
    "checkpoint, not reentrant": checkpointed(False),
    "custom function": custom_function,
    "offloaded": offloaded,
    "torch.func": functional_transforms,
    "partly without grad": partly_without_grad,
    "retained graph": retained,
    "an exception inside a module": raising_inside,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_bit_identical_with_and_without(tmp_path: Path, shape: str) -> None:
    torch.manual_seed(3)
    bare, seen = (model := mlp()), copy.deepcopy(model)

    def run(model: nn.Module) -> torch.Tensor:
        torch.manual_seed(5)
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        train(model, adam, lambda: SHAPES[shape](model))
        return torch.random.get_rng_state()

    expected = run(bare)
    with recording(tmp_path) as session:
        assert torch.equal(run(seen), expected)
    assert memory_notes(session)
    for ours, theirs in zip(seen.parameters(), bare.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks


def test_torch_func_in_the_step_is_told_instead_of_a_wrong_sum(tmp_path: Path) -> None:
    model = mlp()
    with recording(tmp_path) as session:
        train(model, torch.optim.SGD(model.parameters()), lambda: functional_transforms(model))
    assert "activations" not in memory_notes(session)[0]["categories"]
    assert "torch.func" in unobserved(session)["activations"]


@pytest.mark.parametrize("when", ["before us", "while we record"])
def test_compiled_code_is_left_alone(tmp_path: Path, when: str, recwarn: pytest.WarningsRecorder) -> None:
    torch.compiler.reset()
    model = mlp()
    sgd = torch.optim.SGD(model.parameters())
    compiled = torch.compile(model, backend="eager", fullgraph=True) if when == "before us" else None
    if compiled is not None:
        compiled(torch.randn(8, 10))
    with recording(tmp_path) as session:
        compiled = compiled or torch.compile(model, backend="eager", fullgraph=True)
        train(model, sgd, lambda: compiled(torch.randn(8, 10)).sum(), steps=150)
    torch.compiler.reset()
    assert memory_notes(session) == []
    assert "torch.compile" in unobserved(session)["activations"]
    assert not [warning for warning in recwarn if "global hooks" in str(warning.message)]


def test_hooks_of_the_users_own_around_the_loop_are_left_alone(tmp_path: Path) -> None:
    model, packed = mlp(), 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal packed
        packed += 1
        return tensor.detach()

    with recording(tmp_path) as session, torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        train(model, torch.optim.SGD(model.parameters()), lambda: plain(model), steps=150)
    assert packed % 150 == 0
    assert "hooks of its own" in unobserved(session)["activations"]


def test_a_pair_that_is_covered_when_the_step_ends_goes_once_it_is_on_top(tmp_path: Path) -> None:
    model = mlp()
    sgd = torch.optim.SGD(model.parameters())
    with recording(tmp_path) as session:
        train(model, sgd, lambda: plain(model), steps=6)
        with torch.autograd.graph.save_on_cpu():
            train(model, sgd, lambda: plain(model), steps=3)
            assert torch._C._autograd._top_saved_tensors_default_hooks(True)[0].__qualname__.startswith("save_on_cpu")
        train(model, sgd, lambda: plain(model), steps=1)
        assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert len(memory_notes(session)) == 1


def test_an_error_of_the_users_in_place_operation_is_still_raised(tmp_path: Path) -> None:
    model = mlp()
    sgd = torch.optim.SGD(model.parameters())

    def spoiled() -> torch.Tensor:
        kept = torch.tanh(model(torch.randn(8, 10)))
        loss = kept.sum()
        kept.add_(1)
        return loss

    with recording(tmp_path):
        train(model, sgd, lambda: plain(model), steps=6)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            train(model, sgd, spoiled, steps=1)


def test_a_graph_that_is_dropped_is_freed_without_a_collection(tmp_path: Path) -> None:
    def kept() -> int:
        return sum(type(thing).__name__ == "Saved" for thing in gc.get_objects())

    model = mlp()
    sgd = torch.optim.SGD(model.parameters())
    gc.disable()
    try:
        with recording(tmp_path):
            train(model, sgd, lambda: plain(model), steps=6)
            hidden = torch.exp(model(torch.randn(8, 10)))  # exp keeps its own output
            alive = weakref.ref(hidden)
            assert kept() > 0
            del hidden
            assert kept() == 0
            assert alive() is None
            train(model, sgd, lambda: plain(model), steps=2)
            assert kept() == 0
    finally:
        gc.enable()


def test_a_session_that_ends_inside_the_step_leaves_no_hook(tmp_path: Path) -> None:
    model = mlp()
    with recording(tmp_path):
        train(model, torch.optim.SGD(model.parameters()), lambda: plain(model), steps=6)
        assert torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        loss = plain(model)
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert not torch.nn.modules.module._global_forward_hooks
    loss.backward()


def test_samples_of_a_step_are_the_rows_that_its_model_was_given(tmp_path: Path) -> None:
    model, data, targets = mlp(), torch.randn(8, 10), torch.randn(8, 5)
    loss = nn.MSELoss()
    adam = torch.optim.Adam(model.parameters())

    def micro_batches() -> torch.Tensor:
        return loss(model(data), targets) + loss(model(data[:6]), targets[:6])

    with recording(tmp_path) as session:
        train(model, adam, micro_batches)
    [note] = memory_notes(session)
    assert note["samples"] == 14
