"""Cost of seeing communication: the plain loop, and the same with one reduction of its gradients a step.

The group has one rank, so that no other rank's noise is measured; what is recorded is the same. What a rank pays
beyond a lone process is the difference of the rows.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.overhead import Cost, measure


def training(reduce: str) -> Callable[[], None]:
    """One call is one step of about a millisecond; gradients are reduced by "" (not), "hand" or "DDP"."""
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

    return step


def run() -> Iterator[Cost]:
    """The three loops."""
    torch.set_num_threads(1)
    yield measure("no group", training(""), "hooks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield measure("one all_reduce a step", training("hand"), "hooks", late=True)
    yield measure("DistributedDataParallel", training("DDP"), "hooks", late=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    for cost in run():
        print(
            f"{cost.case}: step {cost.step_us:.0f} µs, added {cost.added_us:+.1f} µs "
            f"[{cost.added_low_us:+.1f}, {cost.added_high_us:+.1f}], "
            f"control {cost.control_us:.1f} µs, {cost.pairs} pairs",
            flush=True,
        )
