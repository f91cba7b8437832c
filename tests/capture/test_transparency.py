"""What we leave on the user's objects must not be seen, travel with them, or outlive the recording."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from profiler.capture.forward import ROOT_CALLS
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig, Session


class Model(nn.Module):
    """A model with a nested root class and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * self.scale


class KeepsItsDict(Model):
    """Pickles the whole of its `__dict__`, past torch's own `__getstate__`."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    (tmp_path / "processes").mkdir()
    session = begin(CaptureConfig(tmp_path, deep=False))
    yield session
    end(session)


def train(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()


def is_root(module: nn.Module) -> bool:
    return isinstance(vars(module).get("_compiled_call_impl"), ROOT_CALLS)


def saved_bytes(model: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    return buffer.getvalue()


def test_the_model_that_the_loop_calls_is_a_root_and_its_parts_are_not(session: Session) -> None:
    model = Model()
    train(model)
    assert is_root(model)
    assert not is_root(model.layers)
    assert not is_root(model.layers[0])


@pytest.mark.parametrize("make", [Model, KeepsItsDict])
def test_a_copy_of_a_root_runs_its_own_parameters(session: Session, make: type[Model]) -> None:
    model = make()
    train(model)
    twin = copy.deepcopy(model)
    assert not is_root(twin)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert twin(torch.ones(1, 4)).abs().sum() == 0
        assert model(torch.ones(1, 4)).abs().sum() > 0


@pytest.mark.parametrize("make", [Model, KeepsItsDict])
def test_a_pickled_root_carries_nothing_of_ours(session: Session, make: type[Model]) -> None:
    model = make()
    train(model)
    text = pickle.dumps(model)
    assert b"profiler.capture" not in text
    assert torch.equal(pickle.loads(text)(torch.ones(1, 4)), model(torch.ones(1, 4)))


def test_a_saved_model_is_the_same_file_with_and_without_us(session: Session) -> None:
    torch.manual_seed(0)
    model = Model()
    before = saved_bytes(model)
    with torch.no_grad():
        model(torch.ones(1, 4))
    assert is_root(model)
    assert saved_bytes(model) == before


def test_optimizer_and_loader_are_saved_without_us(session: Session) -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    loader = DataLoader(list(range(8)), batch_size=4)
    for _ in loader:
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
    for thing in (optimizer, loader):
        assert b"profiler.capture" not in pickle.dumps(thing)
    assert copy.deepcopy(optimizer).state_dict().keys() == optimizer.state_dict().keys()


def test_a_root_is_freed_when_its_last_reference_goes(session: Session) -> None:
    model = Model()
    train(model)
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_a_root_can_be_scripted_traced_and_symbolically_traced(session: Session) -> None:
    model = Model()
    train(model)
    x = torch.ones(2, 4)
    expected = model(x)
    assert torch.equal(torch.jit.script(model)(x), expected)
    assert torch.equal(torch.jit.trace(model, x)(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), expected)


def test_a_replica_for_data_parallel_does_not_call_the_original(session: Session) -> None:
    model = Model()
    train(model)
    assert not is_root(model._replicate_for_data_parallel())
    assert is_root(model)


def compiled_graphs(run: Callable[[], None]) -> tuple[int, int]:
    """Graphs and graph breaks that dynamo makes while `run` runs."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    run()
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def compiled_training(how: str) -> Callable[[], None]:
    def run() -> None:
        model = Model()
        if how == "module":
            train(torch.compile(model, backend="eager"), 4)
        elif how == "in place":
            model.compile(backend="eager")
            train(model, 4)
        elif how == "seen before":
            train(model, 2)
            train(torch.compile(model, backend="eager"), 4)
        else:
            loss_of = torch.compile(lambda x: model(x).sum(), backend="eager")
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(4):
                optimizer.zero_grad()
                loss_of(torch.ones(3, 4)).backward()
                optimizer.step()

    return run


@pytest.mark.parametrize("how", ["module", "in place", "seen before", "function"])
def test_compiled_code_has_the_same_graphs_with_and_without_us(
    how: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    plain = compiled_graphs(compiled_training(how))
    (tmp_path / "processes").mkdir()
    session = begin(CaptureConfig(tmp_path, deep=False))
    try:
        recorded = compiled_graphs(compiled_training(how))
    finally:
        end(session)
    assert plain[0] >= 1
    assert recorded == plain
    assert not [warning for warning in recwarn if "global hooks" in str(warning.message)]


def test_a_compiled_optimizer_step_is_left_alone(session: Session) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        model(torch.ones(3, 4)).sum().backward()
        step()
    assert session.active


WATCHED: list[tuple[Any, str]] = [
    (torch, "save"),
    (torch, "load"),
    (torch, "compile"),
    (torch.autograd, "backward"),
    (torch.autograd, "grad"),
    (torch.nn.Module, "zero_grad"),
    (torch.nn.Module, "compile"),
    (torch.nn.utils, "clip_grad_norm_"),
    (torch.optim.Optimizer, "zero_grad"),
    (torch.optim.Optimizer, "__init__"),
    (torch.amp.GradScaler, "step"),
    (lr_scheduler.LRScheduler, "step"),
    (DataLoader, "__iter__"),
    (DataLoader, "__init__"),
    (_BaseDataLoaderIter, "__next__"),
    (sys, "excepthook"),
    (torch, "autocast"),
]


def state_of_the_interpreter() -> list[Any]:
    from torch.nn.modules import module
    from torch.optim import optimizer

    return [
        *(getattr(owner, name) for owner, name in WATCHED),
        len(module._global_forward_pre_hooks),
        len(module._global_forward_hooks),
        len(optimizer._global_optimizer_pre_hooks),
        len(optimizer._global_optimizer_post_hooks),
        list(gc.callbacks),
        [type(finder) for finder in sys.meta_path],
        sys.getswitchinterval(),
        sorted(thread.name for thread in threading.enumerate()),
    ]


def test_after_the_end_no_hook_is_left(tmp_path: Path) -> None:
    (tmp_path / "processes").mkdir()
    before = state_of_the_interpreter()
    model = Model()
    session = begin(CaptureConfig(tmp_path))
    assert state_of_the_interpreter() != before
    train(model, 5)
    for _ in DataLoader(list(range(4))):
        pass
    end(session)
    assert state_of_the_interpreter() == before
    assert not is_root(model)


def test_a_forward_that_raises_the_first_time_is_recorded_the_next(session: Session) -> None:
    class Moody(Model):
        fails = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.fails:
                raise ValueError("not today")
            return super().forward(x)

    model = Moody()
    with pytest.raises(ValueError, match="not today"):
        model(torch.ones(1, 4))
    model.fails = False
    train(model)
    assert session.active
    assert is_root(model)
    assert not model._forward_hooks
