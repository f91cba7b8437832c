"""A deep, narrow network is trained on two items at a time.

Planted: a batch so small that calling operators takes the time
Where:   loader = DataLoader(TensorDataset(inputs, targets), batch_size=512 if args.cured else 2, shuffle=True)
Verdict: compute
Rule:    compute/batch-too-small
Note:    yes
Cured:   --cured takes 512 at a time
"""

import argparse
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

WIDTH, SECONDS = 160, 9  # the operators are looked at after five seconds
inputs = torch.randn(8192, WIDTH)
targets = inputs[:, :10].argmax(1)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=512 if args.cured else 2, shuffle=True)
layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.LayerNorm(WIDTH)) for _ in range(24)]
model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

started, step = time.perf_counter(), 0
while time.perf_counter() - started < SECONDS:
    for batch, labels in loader:
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if time.perf_counter() - started > SECONDS:
            break
print(f"{step} steps, loss {loss.item():.3f}")
