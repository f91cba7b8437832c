"""Two ranks exchange the gradients of a wide model after batches of four.

Planted: so few samples a step that the exchange of gradients takes most of it
Where:   loader = DataLoader(samples, batch_size=args.batch, sampler=DistributedSampler(samples))
Verdict: communication
Rule:    comm/little-work
Ranks:   2
Cores:   2
Cured:   --cured takes batches of 384
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
args.batch, steps = (384, 40) if args.cured else (4, 120)
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")

samples = TensorDataset(torch.randn(2 * args.batch * steps, 512))
loader = DataLoader(samples, batch_size=args.batch, sampler=DistributedSampler(samples))
model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(512, 512), nn.ReLU())])
model = DistributedDataParallel(model, bucket_cap_mb=2, gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for (batch,) in loader:
    loss = (model(batch) - batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
