"""A GradScaler scales the loss of a training in bfloat16, which has the range of float32.

Planted: a GradScaler beside autocast to bfloat16
Where:   scaler.step(optimizer)
Verdict: optimizer | compute
Rule:    optimizer/scaler
Note:    yes
Cured:   --cured switches it off
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

WIDTH, DEPTH = 1200, 3


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.linear(self.norm(x)))


model = nn.Sequential(*[Residual() for _ in range(DEPTH)], nn.Linear(WIDTH, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, foreach=True)
scaler = torch.amp.GradScaler("cpu", enabled=not args.cured)
inputs = torch.randn(4096, WIDTH)
targets = inputs.pow(2).sum(1, keepdim=True).sqrt()

for _ in range(200):
    chosen = torch.randint(len(inputs), (1,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.mse_loss(model(inputs[chosen]).float(), targets[chosen])
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
print(f"loss {loss.item():.3f}")
