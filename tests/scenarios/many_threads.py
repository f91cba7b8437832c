"""PyTorch is given many more threads than there are cores.

Planted: eight threads for each core
Where:   torch.set_num_threads(threads)
Verdict: compute
Rule:    compute/threads
Note:    yes
Cores:   2
Cured:   --cured has a thread for each core
"""

import argparse
import os

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
cores = len(os.sched_getaffinity(0))
threads = cores if args.cured else 8 * cores
torch.set_num_threads(threads)

model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(8192, 64)
targets = inputs[:, :10].argmax(1)

for _ in range(150):
    chosen = torch.randint(len(inputs), (256,))
    loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
