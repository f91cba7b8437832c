"""Each step makes twenty thousand small lists, of which the last ten steps' are kept for a plot.

Planted: objects that bring full collections on, again and again
Verdict: host-overhead
Rule:    host/garbage-collection
Live:    yes
Cured:   --cured keeps them as one tensor
"""

import argparse
from collections import deque
from typing import Any

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(64, 384), nn.ReLU(), nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(8192, 64)
targets = inputs[:, :8].sin()
kept: deque[Any] = deque(maxlen=10)

for _ in range(200):
    chosen = torch.randint(len(inputs), (256,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
    kept.append(torch.arange(20_000) if args.cured else [[number] for number in range(20_000)])
print(f"loss {loss.item():.3f}, {len(kept)} steps kept")
