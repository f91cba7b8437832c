"""A compiled network is given batches of another length in each step.

Planted: torch.compile for fixed sizes, and sizes that change
Where:   model = torch.compile(model, backend="aot_eager", dynamic=args.cured)
Verdict: compute
Rule:    compute/recompiling
Live:    yes
Cured:   --cured compiles for any length
"""

import argparse
import random

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
random.seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 32))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
model = torch.compile(model, backend="aot_eager", dynamic=args.cured)

for _ in range(300):
    length = random.randrange(20, 60)
    inputs = torch.randn(16, length, 32)
    loss = nn.functional.mse_loss(model(inputs), inputs.cumsum(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
