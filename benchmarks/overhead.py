"""Cost in the training loop: one process, blocks with and without recording in turn, and an A/A control.

Off, on, off, on, …: each on-block is compared with the mean of the off-blocks around it, and, as a control,
each off-block with the mean of the off-blocks around it. The control shows what this machine's noise does to
the very same figure. Two figures:

- *hooks*: many short blocks, the median step of each. What every step pays.
- *all*: fewer long blocks, the mean step of each. With the sampler's looks and all that comes now and then.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig

WARM_STEPS = 24  # past the search for root modules
HOOK_STEPS, HOOKS_S = 40, 50  # measured steps of a block, seconds for all blocks
BLOCK_S, PAIRS = 4, 8  # seconds of a long block, pairs of them


@dataclass(frozen=True)
class Cost:
    """What recording adds to a step, in µs; medians over pairs of blocks with their quartiles."""

    case: str
    what: str  # "hooks" or "all"
    step_us: float
    added_us: float
    added_low_us: float
    added_high_us: float
    control_us: float  # the A/A figure: |median|
    control_spread_us: float  # its quartiles' distance
    pairs: int

    @property
    def ratio(self) -> float:
        """Step time with recording over without."""
        return (self.step_us + self.added_us) / self.step_us


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


def training(submodules: int, width: int, workers: int) -> Callable[[], None]:
    """One call is one step."""
    torch.manual_seed(0)
    blocks = [nn.Linear(width, width)]
    while 2 * len(blocks) < submodules:
        blocks.append(nn.Linear(width, width))
    layers: list[nn.Module] = []
    for block in blocks:
        layers += [block, nn.ReLU()]
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


def block_ns(step: Callable[[], None], steps: int) -> list[int]:
    """Times of `steps` steps after those that warm up."""
    for _ in range(WARM_STEPS):
        step()
    gc.collect()
    clock = time.perf_counter_ns
    times = []
    for _ in range(steps):
        began = clock()
        step()
        times.append(clock() - began)
    return times


def measure(case: str, step: Callable[[], None], what: str, *, late: bool = False) -> Cost:
    """What recording adds to `step`. `late`: what it is made of is older than the recording."""
    step_s = statistics.median(block_ns(step, HOOK_STEPS)) / 1e9
    if what == "hooks":
        steps, pairs = HOOK_STEPS, max(16, int(HOOKS_S / (2 * (HOOK_STEPS + WARM_STEPS) * step_s)))
        average = statistics.median
    else:
        steps, pairs = int(BLOCK_S / step_s), PAIRS
        average = statistics.mean
    off: list[float] = []
    on: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(pairs):
            off.append(average(block_ns(step, steps)) / 1e3)
            run = Path(folder) / f"run-{number}"
            (run / "processes").mkdir(parents=True)
            session = begin(CaptureConfig(run, deep=False, late=late))
            on.append(average(block_ns(step, steps)) / 1e3)
            assert session.active
            end(session)
        off.append(average(block_ns(step, steps)) / 1e3)
    added = [value - (off[i] + off[i + 1]) / 2 for i, value in enumerate(on)]
    control = [off[i] - (off[i - 1] + off[i + 1]) / 2 for i in range(1, len(off) - 1)]
    low, _, high = statistics.quantiles(added, n=4)
    control_low, _, control_high = statistics.quantiles(control, n=4)
    return Cost(
        case,
        what,
        statistics.median(off),
        statistics.median(added),
        low,
        high,
        abs(statistics.median(control)),
        control_high - control_low,
        pairs,
    )


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
            yield measure(case, step, what)


if __name__ == "__main__":
    for cost in run():
        print(
            f"{cost.case}, {cost.what}: step {cost.step_us:.0f} µs, added {cost.added_us:+.1f} µs "
            f"[{cost.added_low_us:+.1f}, {cost.added_high_us:+.1f}] ({cost.ratio:.4f}×), "
            f"control {cost.control_us:.1f} µs ± {cost.control_spread_us / 2:.1f}, {cost.pairs} pairs",
            flush=True,
        )
