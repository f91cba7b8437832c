"""Rows of tensors that are in memory already are handed over by two workers.

Planted: workers for batches that take less time to make than to hand over
Where:   loader = DataLoader(TensorDataset(inputs, labels), batch_size=64, shuffle=True, num_workers=workers)
Verdict: data-loading
Rule:    data/handing-over
Cured:   --cured slices whole batches out of the tensors
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

inputs = torch.randn(32768, 32)
labels = inputs[:, :8].argmax(1)
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
workers = 2
loader = DataLoader(TensorDataset(inputs, labels), batch_size=64, shuffle=True, num_workers=workers)


def batches():
    """The data set in another order, by the loader or without it."""
    if not args.cured:
        yield from loader
        return
    for chosen in torch.randperm(len(inputs)).split(64):
        yield inputs[chosen], labels[chosen]


for epoch in range(3):
    for batch, answers in batches():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch), answers)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
