"""After each step every weight's average is updated on its own.

Planted: a loop over the weights
Where:   shadow[name].copy_(0.99 * shadow[name] + 0.01 * weight)
Verdict: host-overhead
Rule:    host/ema-loop
Live:    yes
Cured:   --cured averages all weights in one call
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
shadow, averages, weights = ema.state_dict(), [*ema.parameters()], dict(model.named_parameters())
update = get_ema_multi_avg_fn(0.99)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
inputs = torch.randn(4096, 64)
targets = inputs[:, :8].sin()

for _ in range(600):
    chosen = torch.randint(len(inputs), (16,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        if args.cured:
            update(averages, list(weights.values()), None)
        else:
            for name, weight in weights.items():
                shadow[name].copy_(0.99 * shadow[name] + 0.01 * weight)
print(f"loss {loss.item():.3f}")
