"""Activations and norms spelt out in small operators, each a pass over memory.

Planted: a gated activation and a norm of twelve operators, not compiled
Verdict: compute
Rule:    compute/compile-unused
Note:    yes
Cured:   --cured compiles the model
"""

import argparse

import torch
from torch import Tensor, nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)


class Gated(nn.Module):
    """A gated layer with a norm, spelt out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (rows, width), in and out."""
        outputs = self.linear(inputs)
        gated = 0.5 * outputs * (1 + torch.tanh(0.79788456 * (outputs + 0.044715 * outputs * outputs * outputs)))
        return inputs + self.scale * gated * torch.rsqrt(gated.pow(2).mean(-1, keepdim=True) + 1e-6)


model: nn.Module = nn.Sequential(*(Gated(1024) for _ in range(4))).cuda()
model = torch.compile(model) if args.cured else model
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
inputs = torch.randn(32768, 1024, device="cuda")
for _ in range(1200):
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(inputs).float().pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
