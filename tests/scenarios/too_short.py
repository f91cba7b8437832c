"""The training ends after twelve steps.

Planted: fewer steps than can be judged
Verdict: none
Note:    there is nothing to cure but the length
Rule:    run/too-few-steps
Live:    yes
Cured:   --cured makes 200 steps
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

for _ in range(200 if args.cured else 12):
    chosen = torch.randint(len(inputs), (256,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
