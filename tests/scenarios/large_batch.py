"""A batch of 3,072 rows goes through a small network.

Planted: activations many times the size of the network
Verdict: compute
Note:    it is no fault until memory is short
Rule:    memory/activations-dominate
Settings: memory/activations-dominate.of_capacity = 0
Cured:   --cured has a batch of 64 rows
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(16384, 64)
targets = inputs[:, :8].sin()

for _ in range(400 if args.cured else 40):
    chosen = torch.randint(len(inputs), (64 if args.cured else 3072,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
