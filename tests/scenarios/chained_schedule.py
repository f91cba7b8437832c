"""Four hundred small vectors have learning rates of their own, which a schedule computes anew in each step.

Planted: a scheduler that computes four hundred learning rates in Python
Where:   scheduler.step()
Verdict: optimizer | compute
Rule:    optimizer/scheduler
Note:    yes
Twin:    optimizer | compute
Cured:   --cured steps it once in ten steps
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


STEPS, EVERY = 400, 10 if args.cured else 1
model = Prototypes()
groups = [{"params": [vector], "lr": 0.1 + number / 4000} for number, vector in enumerate(model.vectors)]
optimizer = torch.optim.SGD(groups, momentum=0.9)
rates = [group["lr"] for group in groups]
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=STEPS // EVERY + 1)
inputs = torch.randn(8192, 64)
targets = torch.randint(400, (8192,))

for step in range(STEPS):
    chosen = torch.randint(len(inputs), (64,))
    loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % EVERY == 0:
        scheduler.step()
print(f"loss {loss.item():.3f}")
