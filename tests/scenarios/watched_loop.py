"""cProfile and autograd's anomaly detection were left on after a search for an error.

Planted: a profile function, and a traceback for every operator
Verdict: host-overhead
Rule:    host/profiler-left-on
Also:    host/anomaly-detection
Live:    yes
Cured:   --cured has switched both off
"""

import argparse
import cProfile

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
profile = cProfile.Profile()
if not args.cured:
    profile.enable()
    torch.autograd.set_detect_anomaly(True)

for _ in range(300):
    chosen = torch.randint(len(inputs), (256,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
profile.disable()
print(f"loss {loss.item():.3f}")
