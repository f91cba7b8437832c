"""Two ranks draw sequences of random length, and in each step one of them waits for the one that drew the longer.

Planted: batches of unlike length meet in one step
Where:   loader = DataLoader(sequences, batch_size=None, sampler=sampler)
Verdict: straggler
Rule:    straggler/imbalance
Ranks:   2
Cores:   2
Cured:   --cured deals them out in order, in which pairs are of one length
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

LENGTHS = (16, 112)

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")

pairs = torch.randint(0, 2, (80,)).tolist()
sequences = [torch.randn(16, LENGTHS[pair], 256) for pair in pairs for _ in range(2)]
sampler = DistributedSampler(sequences, shuffle=not args.cured)
loader = DataLoader(sequences, batch_size=None, sampler=sampler)
layers = [nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 256)) for _ in range(4)]
model = DistributedDataParallel(nn.Sequential(*layers), bucket_cap_mb=1, gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for sequence in loader:
    loss = model(sequence).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
