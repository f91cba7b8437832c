"""Cost in the training loop: one process, steps or blocks with and without recording in turn, and an A/A control.

Two figures, each by two clocks. The control shows what this machine's noise does to the very same figure.

- *hooks*: what every step pays. While recording goes on, steps take turns with every hook in its place and with every
  hook taken out: two of each, in random order, and so on. The step's code stands there twice, since the interpreter
  remembers at each call what it found there. The control has no hooks in either.
- *all*: with the sampler's looks and all that comes now and then. Long blocks, of each the mean step: off, on, off,
  on, …; each on-block is compared with the mean of the off-blocks around it, and, as a control, each off-block with
  the mean of the off-blocks around it.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.turns import (
    CLOCKS,
    WARM_STEPS,
    Block,
    Estimate,
    Step,
    block,
    estimate,
    exchanged,
    recorded_block,
    timed,
)
from profiler.capture.forward import _SLOT, ROOT_CALLS
from profiler.capture.install import begin, end
from profiler.capture.patches import _ABSENT
from profiler.capture.session import CaptureConfig, Session

HOOKS_S, CONTROL_S = 60, 30  # for steps in turn
BLOCK_S, PAIRS = 3, 10  # seconds of a block, pairs of them
TRIAL_STEPS = 32


@dataclass(frozen=True, slots=True)
class Cost:
    """What recording adds to a step."""

    case: str
    what: str  # "hooks" or "all"
    clock: str
    step_us: float
    added: Estimate
    control: Estimate  # the A/A figure

    @property
    def ratio(self) -> float:
        """Step time with recording over without."""
        return (self.step_us + self.added.us) / self.step_us


def batches(workers: int, width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end."""
    inputs, targets = torch.randn(8192, width), torch.randint(0, 10, (8192,))
    loader = DataLoader(
        TensorDataset(inputs, targets),
        batch_size=64,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def training(submodules: int, width: int, workers: int) -> Step:
    """One call is one step."""
    torch.manual_seed(0)
    blocks = [nn.Linear(width, width)]
    while 2 * len(blocks) < submodules:
        blocks.append(nn.Linear(width, width))
    layers: list[nn.Module] = []
    for each in blocks:
        layers += [each, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, foreach=True)
    source = batches(workers, width)

    def step() -> None:
        inputs, targets = next(source)
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()

    return step


def hooks(case: str, step: Step) -> Iterator[Cost]:
    """What the hooks add to `step`, by each clock."""
    step_us = block(step, TRIAL_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "processes").mkdir()
        session = begin(CaptureConfig(Path(folder), deep=False))
        for _ in range(WARM_STEPS):
            step()
        roots = [vars(root) for root in _held(step) if isinstance(vars(root).get(_SLOT), ROOT_CALLS)]
        put = functools.partial(_put_hooks, session, [(root, root[_SLOT]) for root in roots])
        first, second = _copy(step), _copy(step)
        bare = timed(second, lambda: put(False))
        control = exchanged(timed(first, lambda: put(False)), bare, CONTROL_S)
        added = exchanged(timed(first, lambda: put(True)), bare, HOOKS_S)
        put(True)
        assert session.active
        end(session)
    for clock in CLOCKS:
        yield Cost(case, "hooks", clock, step_us[clock], added[clock], control[clock])


def _held(step: Step) -> list[nn.Module]:
    """The modules that a step calls."""
    assert isinstance(step, FunctionType)
    held = [cell.cell_contents for cell in step.__closure__ or ()]
    return [each for each in held if isinstance(each, nn.Module)]


def _copy(step: Step) -> Step:
    """The same step, whose calls the interpreter remembers by themselves."""
    assert isinstance(step, FunctionType)
    return FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)


def _put_hooks(session: Session, roots: list[tuple[dict[str, object], object]], on: bool) -> None:
    """Put every hook of a session in its place, or what stood there before."""
    for owner, name, before, ours in session.patches._done:
        wanted = ours if on else before
        if wanted is not _ABSENT:
            setattr(owner, name, wanted)
        elif name in vars(owner):
            delattr(owner, name)
    for root, call in roots:
        if on:
            root[_SLOT] = call
        else:
            root.pop(_SLOT, None)


def everything(case: str, step: Step) -> Iterator[Cost]:
    """What recording adds to `step` in all, by each clock."""
    steps = int(BLOCK_S / (block(step, TRIAL_STEPS)["wall"] / 1e6))
    off: list[Block] = []
    on: list[Block] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(PAIRS):
            off.append(block(step, steps, statistics.mean))
            on.append(recorded_block(step, steps, Path(folder) / f"run-{number}", statistics.mean))
        off.append(block(step, steps, statistics.mean))
    for clock in CLOCKS:
        without, recorded = [each[clock] for each in off], [each[clock] for each in on]
        added = [value - (without[i] + without[i + 1]) / 2 for i, value in enumerate(recorded)]
        control = [without[i] - (without[i - 1] + without[i + 1]) / 2 for i in range(1, len(without) - 1)]
        yield Cost(case, "all", clock, statistics.median(without), estimate(added), estimate(control))


CASES: dict[str, tuple[int, int, int]] = {
    # submodules, width, workers
    "plain loop, DataLoader with num_workers=0": (6, 256, 0),
    "200 submodules": (200, 32, 0),
    "one worker process": (6, 256, 1),
}


def run() -> Iterator[Cost]:
    """All cases."""
    torch.set_num_threads(1)
    for case, shape in CASES.items():
        step = training(*shape)
        yield from hooks(case, step)
        yield from everything(case, step)
