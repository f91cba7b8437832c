"""Two ranks add up the gradients of eight micro-batches, and exchange them after each.

Planted: gradient accumulation without no_sync()
Where:   loss.backward()
Verdict: communication
Rule:    comm/accumulation-without-no-sync
Ranks:   2
Cores:   2
Live:    yes
Cured:   --cured exchanges them once, after the last
"""

import argparse
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

MICRO_BATCHES = 8

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")

model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(512, 512), nn.ReLU())])
model = DistributedDataParallel(model, bucket_cap_mb=2, gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
batch = torch.randn(48, 512)

for _ in range(40):
    for micro in range(MICRO_BATCHES):
        waits = args.cured and micro < MICRO_BATCHES - 1
        with model.no_sync() if waits else nullcontext():
            loss = (model(batch) - batch).square().mean() / MICRO_BATCHES
            loss.backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
