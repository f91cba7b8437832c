"""Only a network's head is trained, and autograd is not told: the backbone gets gradients that nobody uses.

Planted: the optimizer holds the head alone, and the backbone still requires gradients
Where:   loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
Verdict: compute
Rule:    compute/frozen-parts-with-gradients
Cured:   --cured switches the backbone's gradients off
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(3)]
        self.backbone = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), *layers)
        self.head = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


model = Classifier()
if args.cured:
    model.backbone.requires_grad_(False)
optimizer = torch.optim.SGD(model.head.parameters(), lr=0.05)
inputs = torch.randn(8192, 64)
targets = inputs[:, :10].argmax(1)

for _ in range(500):
    chosen = torch.randint(len(inputs), (256,))
    loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
