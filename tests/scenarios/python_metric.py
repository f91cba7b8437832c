"""A confusion matrix is counted in Python, number by number, in every step.

Planted: a pure-Python loop over the predictions
Where:   confusion[label, best] += 1
Verdict: host-overhead
Rule:    host/python-line
Live:    yes
Cured:   --cured counts with tensors
"""

import argparse

import torch
from torch import nn

CLASSES = 40

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.long)


def count(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Add a batch to the confusion matrix."""
    if args.cured:
        places = labels * CLASSES + logits.argmax(1)
        confusion.add_(torch.bincount(places, minlength=CLASSES * CLASSES).view(CLASSES, CLASSES))
        return
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        best = max(range(CLASSES), key=row.__getitem__)
        confusion[label, best] += 1


inputs = torch.randn(4096, 64)
targets = inputs[:, :CLASSES].argmax(1)
model = nn.Sequential(nn.Linear(64, 320), nn.ReLU(), nn.Linear(320, 320), nn.ReLU(), nn.Linear(320, CLASSES))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for epoch in range(24):
    for chosen in torch.randperm(len(inputs)).split(256):
        labels = targets[chosen]
        optimizer.zero_grad()
        logits = model(inputs[chosen])
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        count(logits.detach(), labels)
    print(f"epoch {epoch}: {confusion.trace().item() / confusion.sum().item():.0%} right")
