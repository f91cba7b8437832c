"""Cost of seeing communication: what recording adds to a step with a reduction, beyond what it adds to one without.

Three loops of about a millisecond take turns: the plain one, one with an all-reduce by hand, one under
DistributedDataParallel. The group has one rank, so that no other rank is measured; what is recorded is the same.

Two figures, each once by the clock and once by the training thread's CPU time, in which other programs' turns on the
core do not count (their use of its caches does):

- *added*: what all recording adds. A short block without recording, one with, one without, and so on in turn; of a
  block the step that a quarter are faster than, since other programs only ever make steps slower. The control is a
  block without against the other one.
- *beyond*: what a rank pays beyond a lone process. While recording goes on, two like loops take steps in turn, one with
  the hooks of communication in place and one without: two of each, in random order, and so on. The control is the same
  with the hooks in place for both.

Medians, with the interval of a bootstrap that holds 95 of 100 of them.
"""

from __future__ import annotations

import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.parallel import DistributedDataParallel

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
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig

STEPS = 32  # of a block, that count
ROUNDS, LEAST_ROUNDS = 60, 6
LIMIT_S = 90  # for all rounds but the least
TURNS_S = 10  # for a comparison of steps in turn
_LOOPS = {"no collective": "", "one all_reduce a step": "hand", "DistributedDataParallel": "DDP"}
_HOOKS = {"hand": (dist, "all_reduce"), "DDP": (torch.autograd, "_engine_run_backward")}


@dataclass(frozen=True, slots=True)
class RankCost:
    """What recording adds to one loop by one clock."""

    case: str
    clock: str
    step_us: float
    added: Estimate
    control: Estimate
    beyond: Estimate | None  # of it, the hooks of communication; None where there are none
    beyond_control: Estimate | None


def training(reduce: str) -> tuple[Step, nn.Module]:
    """A step of about a millisecond, whose gradients are reduced by "" (not), "hand" or "DDP"; and its model."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    if reduce == "DDP":
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, foreach=True)
    inputs, targets = torch.randn(64, 256), torch.randint(0, 10, (64,))
    flat = torch.zeros(140_000)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        if reduce == "hand":
            dist.all_reduce(flat)
        optimizer.step()

    return step, model


def in_turn(reduce: str, owner: ModuleType, name: str, folder: Path) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """What that hook of communication adds to a step, by clock, and what the control says of that."""
    (folder / "processes").mkdir(parents=True)
    (with_hooks, _), (without, model) = training(reduce), training(reduce)
    session = begin(CaptureConfig(folder, deep=False, late=True))
    for _ in range(WARM_STEPS):
        with_hooks()
        without()
    hook = getattr(owner, name)

    def hooked() -> None:
        setattr(owner, name, hook)

    control = exchanged(timed(with_hooks, hooked), timed(without, hooked), TURNS_S)
    if isinstance(model, DistributedDataParallel):
        _unhook(model)
    bare = timed(without, lambda: setattr(owner, name, hook.__wrapped__))
    found = exchanged(timed(with_hooks, hooked), bare, TURNS_S), control
    hooked()
    assert session.active
    end(session)
    return found


def _unhook(model: DistributedDataParallel) -> None:
    """Take away what is called when the first parameter's gradient comes, as it stays from step to step."""
    handle = get_gradient_edge(next(model.parameters())).node.register_prehook(lambda _: None)
    handle.hooks_dict_ref().clear()


def run(rounds: int = ROUNDS) -> Iterator[RankCost]:
    """All loops by both clocks."""
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    steps = {case: training(reduce)[0] for case, reduce in _LOOPS.items()}
    before: dict[str, list[Block]] = {case: [] for case in steps}
    during: dict[str, list[Block]] = {case: [] for case in steps}
    after: dict[str, list[Block]] = {case: [] for case in steps}
    with tempfile.TemporaryDirectory() as folder:
        until_s = time.monotonic() + LIMIT_S
        for number in range(rounds):
            if number >= LEAST_ROUNDS and time.monotonic() > until_s:
                break
            for place, (case, step) in enumerate(steps.items()):
                before[case].append(block(step, STEPS))
                during[case].append(recorded_block(step, STEPS, Path(folder) / f"{number}-{place}", late=True))
                after[case].append(block(step, STEPS))
        hooks = {
            case: in_turn(reduce, *_HOOKS[reduce], Path(folder) / reduce) for case, reduce in _LOOPS.items() if reduce
        }
    dist.destroy_process_group()
    for clock in CLOCKS:
        for case in steps:
            first, second = ([each[clock] for each in side[case]] for side in (before, after))
            on = [each[clock] for each in during[case]]
            added = [with_us - (a + b) / 2 for with_us, a, b in zip(on, first, second, strict=True)]
            beyond, control = hooks.get(case, (None, None))
            yield RankCost(
                case=case,
                clock=clock,
                step_us=statistics.median(first + second),
                added=estimate(added),
                control=estimate([b - a for a, b in zip(first, second, strict=True)]),
                beyond=beyond[clock] if beyond else None,
                beyond_control=control[clock] if control else None,
            )


if __name__ == "__main__":
    for cost in run(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS):
        print(
            f"{cost.case}, {cost.clock} time: step {cost.step_us:.0f} µs, added {cost.added}, "
            f"control {cost.control}; of it beyond a lone process {cost.beyond or '-'}, "
            f"control {cost.beyond_control or '-'}",
            flush=True,
        )
