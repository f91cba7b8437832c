"""Epochs of eight steps, each of which waits for its first batch to come from the store.

Planted: an end of the epoch after every eighth step
Where:   loader = DataLoader(Stored(), batch_size=BATCH, sampler=order, num_workers=4, persistent_workers=True)
Verdict: data-loading
Rule:    data/epoch-start
Cores:   2
Cured:   --cured goes over all epochs in one pass of the loader
"""

import argparse
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

ITEMS, BATCH, EPOCHS = 64, 8, 16

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Stored(Dataset):
    """Items that take 5 ms to come."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(0.005)
        return torch.randn(3, 32, 32) + index % 2, index % 2


class AllEpochs(Sampler):
    """One epoch's order after the other."""

    def __len__(self) -> int:
        return EPOCHS * ITEMS

    def __iter__(self) -> Iterator[int]:
        for _ in range(EPOCHS):
            yield from torch.randperm(ITEMS).tolist()


model = nn.Sequential(
    nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(), nn.Linear(64, 2),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
order = AllEpochs() if args.cured else RandomSampler(range(ITEMS))
loader = DataLoader(Stored(), batch_size=BATCH, sampler=order, num_workers=4, persistent_workers=True)

for _ in range(1 if args.cured else EPOCHS):
    for pictures, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        optimizer.step()
print(f"loss {loss.item():.3f}")
