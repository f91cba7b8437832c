"""Cost in the training loop: one process, blocks with and without recording in turn, and an A/A control.

Off, on, off, on, …: each on-block is compared with the mean of the off-blocks around it, and, as a control,
each off-block with the mean of the off-blocks around it. The control shows what this machine's noise does to
the very same figure. Two figures, each by two clocks:

- *hooks*: many short blocks, of each the step that a quarter are faster than. What every step pays.
- *all*: fewer long blocks, the mean step of each. With the sampler's looks and all that comes now and then.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.turns import CLOCKS, WARM_STEPS, Block, Estimate, Step, block, estimate, lower_quartile, recorded_block

HOOK_STEPS, HOOKS_S = 32, 60  # measured steps of a block, seconds for all blocks
BLOCK_S, PAIRS = 3, 10  # seconds of a long block, pairs of them


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


def measure(case: str, step: Step, what: str) -> Iterator[Cost]:
    """What recording adds to `step`, by each clock."""
    step_s = block(step, HOOK_STEPS)["wall"] / 1e6
    if what == "hooks":
        steps, pairs = HOOK_STEPS, max(16, int(HOOKS_S / (2 * (HOOK_STEPS + WARM_STEPS) * step_s)))
        average = lower_quartile
    else:
        steps, pairs = int(BLOCK_S / step_s), PAIRS
        average = statistics.mean
    off: list[Block] = []
    on: list[Block] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(pairs):
            off.append(block(step, steps, average))
            on.append(recorded_block(step, steps, Path(folder) / f"run-{number}", average))
        off.append(block(step, steps, average))
    for clock in CLOCKS:
        without, recorded = [each[clock] for each in off], [each[clock] for each in on]
        added = [value - (without[i] + without[i + 1]) / 2 for i, value in enumerate(recorded)]
        control = [without[i] - (without[i - 1] + without[i + 1]) / 2 for i in range(1, len(without) - 1)]
        yield Cost(case, what, clock, statistics.median(without), estimate(added), estimate(control))


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
        for what in ("hooks", "all"):
            yield from measure(case, step, what)
