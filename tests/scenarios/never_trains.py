"""The network is only asked, and never trained.

Planted: a loop without a backward pass
Verdict: none
Rule:    run/no-training
Live:    yes
Cured:   --cured trains it
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(2048, 64)
targets = inputs[:, :8].sin()

for _ in range(200):
    chosen = torch.randint(len(inputs), (256,))
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    if args.cured:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"loss {loss.item():.3f}")
