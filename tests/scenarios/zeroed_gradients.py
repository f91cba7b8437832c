"""Four hundred small vectors, forty of them in each step, and the gradients of all filled with zeros before it.

Planted: zero_grad(set_to_none=False)
Where:   optimizer.zero_grad(set_to_none=False)
Verdict: optimizer | compute
Rule:    optimizer/zero-grad
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
    """Scores by the distance to the vectors of one group of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.ParameterList([nn.Parameter(torch.randn(64)) for _ in range(400)])

    def forward(self, x: torch.Tensor, group: int) -> torch.Tensor:
        return -torch.cdist(x, torch.stack(list(self.vectors[40 * group : 40 * group + 40])))


model = Prototypes()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
inputs = torch.randn(8192, 64)
targets = torch.randint(40, (8192,))

for step in range(1000):
    chosen = torch.randint(len(inputs), (8,))
    loss = nn.functional.cross_entropy(model(inputs[chosen], step % 10), targets[chosen])
    if args.cured:
        optimizer.zero_grad()
    else:
        optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
