"""A deep, narrow network gives every tensor a parameter group of its own, with the same settings.

Planted: two hundred groups of one tensor, for a fused optimizer
Where:   optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
Verdict: optimizer | compute
Rule:    optimizer/many-groups
Note:    yes
Cured:   --cured has one group
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

WIDTH, DEPTH = 32, 50


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.linear(self.norm(x)))


model = nn.Sequential(*[Residual() for _ in range(DEPTH)], nn.Linear(WIDTH, 1))
groups = [{"params": list(model.parameters())}] if args.cured else [{"params": [p]} for p in model.parameters()]
optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
inputs = torch.randn(4096, WIDTH)
targets = inputs.pow(2).sum(1, keepdim=True).sqrt()

for _ in range(250):
    chosen = torch.randint(len(inputs), (8,))
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
