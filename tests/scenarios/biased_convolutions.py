"""A small CNN whose convolutions have a bias that the batch norm after them takes away.

Planted: bias on convolutions before batch norm
Where:   logits = model(images[chosen])
Verdict: compute
Rule:    compute/bias-before-norm
Note:    yes
Cured:   --cured makes them without
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


def layer(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not args.cured)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


model = nn.Sequential(layer(3, 16), layer(16, 32), nn.Flatten(), nn.Linear(32 * 36, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
images = torch.randn(512, 3, 24, 24)
labels = images.mean((1, 2, 3)).argsort().argsort() * 10 // len(images)

for _ in range(150):
    chosen = torch.randint(len(images), (32,))
    logits = model(images[chosen])
    loss = nn.functional.cross_entropy(logits, labels[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
