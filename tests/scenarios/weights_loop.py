"""After each step every weight's average is updated on its own, and the first layers are copied as Python objects.

Planted: a loop over the weights, and deepcopy of modules
Where:   shadow[name].copy_(0.99 * shadow[name] + 0.01 * weight)
Verdict: host-overhead
Rule:    host/ema-loop
Also:    host/deepcopy
Cured:   --cured averages all weights in one call, and copies in every 50th step
"""

import argparse
import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

layers = [layer for _ in range(24) for layer in (nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(64, 8))
ema = copy.deepcopy(model)
shadow, averages, weights = ema.state_dict(), [*ema.parameters()], [*model.parameters()]
update = get_ema_multi_avg_fn(0.99)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
inputs = torch.randn(4096, 64)
targets = inputs[:, :8].sin()

for step in range(800):
    chosen = torch.randint(len(inputs), (48,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
    if args.cured:
        update(averages, weights, None)
    else:
        for name, weight in model.state_dict().items():
            shadow[name].copy_(0.99 * shadow[name] + 0.01 * weight)
    if not args.cured or step % 50 == 0:
        kept = copy.deepcopy(model[:24])
print(f"loss {loss.item():.3f}")
