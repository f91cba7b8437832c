"""Each step goes through the losses of all steps before it.

Planted: work that grows with the steps
Verdict: host-overhead | compute
Note:    inputs that grow on purpose would look the same
Rule:    run/drift
Settings: run/drift.min_s = 1
Cured:   --cured keeps a running mean
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
inputs = torch.randn(8192, 64)
targets = inputs[:, :8].sin()
history: list[float] = []
mean = 0.0

for _ in range(800):
    chosen = torch.randint(len(inputs), (192,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
    if args.cured:
        mean += 0.01 * (loss.item() - mean)
    else:
        history += 100 * [loss.item()]
        mean = sum(value * value for value in history) / len(history)
print(f"mean {mean:.3f}")
