"""After each step the model is copied, so that the last good weights can be taken back.

Planted: deepcopy of modules in every step
Where:   last = copy.deepcopy(model)
Verdict: host-overhead
Rule:    host/deepcopy
Cured:   --cured copies the values into a copy that exists
"""

import argparse
import copy

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

layers = [layer for _ in range(16) for layer in (nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(64, 8))
first = copy.deepcopy(model)
held, weights = [*first.parameters()], [*model.parameters()]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
inputs = torch.randn(4096, 64)
targets = inputs[:, :8].sin()

for _ in range(400):
    chosen = torch.randint(len(inputs), (256,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
    if args.cured:
        with torch.no_grad():
            torch._foreach_copy_(held, weights)
    else:
        last = copy.deepcopy(model)
print(f"loss {loss.item():.3f}")
