"""A deep, narrow network whose Adam updates its many small tensors one by one.

Planted: Adam without foreach or fused, on two hundred tensors
Where:   optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=args.cured)
Verdict: optimizer
Rule:    optimizer/for-loop
Live:    yes
Cured:   --cured has fused=True
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

WIDTH, DEPTH = 48, 50


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.linear(self.norm(x)))


model = nn.Sequential(*[Residual() for _ in range(DEPTH)], nn.Linear(WIDTH, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=args.cured)
inputs = torch.randn(4096, WIDTH)
targets = inputs.pow(2).sum(1, keepdim=True).sqrt()

for step in range(250):
    chosen = torch.randint(len(inputs), (64,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
