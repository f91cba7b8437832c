"""Where DDP's reduction begins, told from a hook on a parameter or from where backward begins."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from profiler.analysis.fold import collect
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig
from profiler.record.vocabulary import Communication

STEPS = 12
Module = Callable[[], nn.Module]


class Layers(nn.Module):
    """Three layers; the first is left out, or the last two are checkpointed, where that is asked for."""

    def __init__(self, without_first: bool = False, checkpointed: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(64, 64) for _ in range(3))
        self.without_first = without_first
        self.checkpointed = checkpointed
        self.calls = 0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        hidden = batch if self.without_first and self.calls % 2 else self.first(batch)
        if self.checkpointed:
            return checkpoint(lambda given: self.third(self.second(given)), hidden, use_reentrant=True)
        return self.third(self.second(hidden))


@pytest.fixture
def lone_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
        gc.collect()


def reductions(folder: Path, train: Callable[[], None]) -> list[int]:
    """How many reductions each step of a recorded training had."""
    (folder / "processes").mkdir(parents=True)
    session = begin(CaptureConfig(folder, deep=False, late=True))
    assert session is not None
    try:
        train()
        assert session.active, "an error of ours ended the recording"
        process = session.folder()
    finally:
        end(session)
    columns = collect(process, final=True).steps.columns()
    counts = columns.get(f"comm_n_{int(Communication.GRADIENTS)}")
    return [] if counts is None else [int(count) for count in counts]


def trained(module: DistributedDataParallel) -> Callable[[], None]:
    """The training of a module that was wrapped before the recording began."""

    def train() -> None:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        for _ in range(STEPS):
            module(torch.randn(16, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def hooked(module: DistributedDataParallel) -> bool:
    """Whether a hook of Python's is on the node of the first parameter: it is asked for its gradient's edge."""
    node = get_gradient_edge(next(module.parameters())).node
    seen = []
    handle = node.register_prehook(lambda grads: seen.append(grads))
    others = len(handle.hooks_dict_ref()) - 1
    handle.remove()
    return others > 0


@pytest.mark.usefixtures("lone_rank")
@pytest.mark.parametrize(
    ("made", "options", "stays"),
    [
        (Layers, {}, True),
        (lambda: Layers(without_first=True), {"find_unused_parameters": True}, False),
        (Layers, {"static_graph": True}, False),
    ],
    ids=["each parameter has a gradient", "the first has none in each second step", "static graph"],
)
def test_each_step_has_its_reduction(made: Module, options: dict[str, bool], stays: bool, tmp_path: Path) -> None:
    module = DistributedDataParallel(made(), **options)
    during: list[bool] = []
    train = trained(module)

    def watched() -> None:
        train()
        during.append(hooked(module))

    assert reductions(tmp_path / "run", watched) == [1] * STEPS
    assert during == [stays]
    assert not hooked(module), "a hook was left behind"


@pytest.mark.usefixtures("lone_rank")
def test_a_backward_pass_within_another_moves_the_hook_to_where_the_outer_one_begins(tmp_path: Path) -> None:
    module = DistributedDataParallel(Layers(checkpointed=True))
    found = reductions(tmp_path / "run", trained(module))
    assert found[1:] == [1] * (STEPS - 1)
    assert not hooked(module)


@pytest.mark.usefixtures("lone_rank")
def test_what_ddp_ignores_is_not_what_is_hooked(tmp_path: Path) -> None:
    layers = Layers()
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(layers, ["first.weight", "first.bias"])
    module = DistributedDataParallel(layers)
    during: list[bool] = []

    def train() -> None:
        trained(module)()
        during.append(hooked(module))

    assert reductions(tmp_path / "run", train) == [1] * STEPS
    assert during == [False]


@pytest.mark.usefixtures("lone_rank")
def test_two_modules_in_one_backward_pass_reduce_once_and_in_turn_each(tmp_path: Path) -> None:
    one, other = (DistributedDataParallel(Layers()) for _ in range(2))

    def train() -> None:
        optimizer = torch.optim.SGD([*one.parameters(), *other.parameters()], lr=0.01)
        for _ in range(STEPS):
            other(one(torch.randn(16, 64))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        for _ in range(STEPS):
            for module in (one, other):
                module(torch.randn(16, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    assert reductions(tmp_path / "run", train) == [1] * STEPS + [2] * STEPS


@pytest.mark.usefixtures("lone_rank")
def test_passes_without_synchronization_have_no_reduction(tmp_path: Path) -> None:
    module = DistributedDataParallel(Layers())

    def train() -> None:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        for _ in range(STEPS):
            with module.no_sync():
                module(torch.randn(16, 64)).square().mean().backward()
            module(torch.randn(16, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    assert reductions(tmp_path / "run", train) == [1] * STEPS


@pytest.mark.usefixtures("lone_rank")
def test_an_error_in_backward_is_the_users_and_the_next_step_is_seen(tmp_path: Path) -> None:
    module = DistributedDataParallel(Layers())

    def refuse(_: torch.Tensor) -> None:
        raise ValueError("mine")

    def train() -> None:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        loss = module(torch.randn(16, 64)).square().mean()
        loss.register_hook(refuse)
        with pytest.raises(ValueError, match="mine"):
            loss.backward()
        optimizer.zero_grad()
        renewed = DistributedDataParallel(module.module)
        for _ in range(STEPS):
            renewed(torch.randn(16, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    assert reductions(tmp_path / "run", train)[-STEPS + 1 :] == [1] * (STEPS - 1)
