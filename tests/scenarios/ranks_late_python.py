"""Two ranks hold half of each layer, and the first of them writes what it did in every step while the other waits.

Planted: rank 0 formats a long report in each step
Where:   text = json.dumps([round(weight, 4) for weight in weights.tolist()])
Verdict: straggler
Rule:    straggler/python
Ranks:   2
Cores:   2
Cured:   --cured reports every 50th step
"""

import argparse
import json

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()


def report(weights: torch.Tensor) -> int:
    """Describe the weights in text."""
    text = json.dumps([round(weight, 4) for weight in weights.tolist()])
    return len(text)


mesh = init_device_mesh("cpu", (2,))
model = nn.Sequential(*[nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256)) for _ in range(2)])
for block in model:
    parallelize_module(block, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
batch = torch.randn(256, 256)
history = torch.randn(30_000)

for step in range(100):
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if rank == 0 and step % (50 if args.cured else 1) == 0:
        report(history)
dist.destroy_process_group()
