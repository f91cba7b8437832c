"""A deep, narrow network clips its gradients by hand, tensor by tensor.

Planted: a norm, a number and a multiplication for each of two hundred tensors
Where:   total += p.grad.detach().data.norm(2).item() ** 2
Verdict: optimizer
Rule:    optimizer/clip-by-loop
Live:    yes
Cured:   --cured calls clip_grad_norm_
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
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, foreach=True)


def clip(limit: float) -> None:
    """Scale all gradients so that their common norm is at most `limit`."""
    if args.cured:
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit, foreach=True)
        return
    total = 0.0
    for p in model.parameters():
        total += p.grad.detach().data.norm(2).item() ** 2
    scale = min(1.0, limit / (total**0.5 + 1e-6))
    for p in model.parameters():
        p.grad.data.mul_(scale)


inputs = torch.randn(4096, WIDTH)
targets = inputs.pow(2).sum(1, keepdim=True).sqrt()

for _ in range(300):
    chosen = torch.randint(len(inputs), (8,))
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    optimizer.zero_grad()
    loss.backward()
    clip(1.0)
    optimizer.step()
print(f"loss {loss.item():.3f}")
