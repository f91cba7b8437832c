"""Four hundred small vectors are learned one by one, and their gradients filled with zeros before each step.

Planted: zero_grad(set_to_none=False)
Where:   optimizer.zero_grad(set_to_none=False)
Verdict: optimizer | compute
Rule:    optimizer/zero-grad
Note:    yes
Twin:    optimizer | compute
Cured:   --cured drops them
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Prototypes(nn.Module):
    """Scores by the distance to a vector of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.ParameterList([nn.Parameter(torch.randn(64)) for _ in range(400)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(x, torch.stack(list(self.vectors)))


model = Prototypes()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
inputs = torch.randn(8192, 64)
targets = torch.randint(400, (8192,))

for _ in range(700):
    chosen = torch.randint(len(inputs), (8,))
    loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
    if args.cured:
        optimizer.zero_grad()
    else:
        optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
