"""Two ranks share the parameters of a model; the second one's batches are longer, and the first waits for it.

Planted: the second rank computes on sequences three times as long
Verdict: straggler
Rule:    straggler/compute
Ranks:   2
Cores:   2
Cured:   --cured gives both as much
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()

mesh = init_device_mesh("cpu", (2,))
model = nn.Sequential(*[nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)) for _ in range(4)])
for block in model:
    fully_shard(block, mesh=mesh, reshard_after_forward=False)
fully_shard(model, mesh=mesh, reshard_after_forward=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
lengths = (80, 80) if args.cured else (40, 120)
batch = torch.randn(16, lengths[rank], 256)

for _ in range(40):
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
