"""Two ranks train, and the first of them writes what it did in every step while the other waits for it.

Planted: rank 0 formats a long report of the weights in each step
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
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()


def report(model: nn.Module) -> int:
    """Describe the weights in text."""
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])[:30_000]
    text = json.dumps([round(weight, 4) for weight in weights.tolist()])
    return len(text)


model = nn.Sequential(*[nn.Linear(128, 128) for _ in range(40)])
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
batch = torch.randn(256, 128)

for step in range(100):
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if rank == 0 and step % (50 if args.cured else 1) == 0:
        report(model)
dist.destroy_process_group()
