"""Batches are chosen by a walk through a list of weights in Python, on the training thread.

Planted: a sampler that works each batch out anew
Where:   place = next(number for number, upto in enumerate(self.upto) if upto >= value)
Verdict: data-preprocessing
Rule:    data/slow-sampler
Cores:   2
Cured:   --cured draws all of an epoch's batches at once
"""

import argparse
import itertools
import random
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

ITEMS, BATCH = 4096, 64

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
random.seed(0)
torch.set_num_threads(1)


class Rows(Dataset):
    """Sorted noise about the item's number."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return (torch.randn(512) + index / ITEMS).sort().values[::4], index % 2


class Weighted(Sampler):
    """Batches in which later items come more often."""

    def __init__(self) -> None:
        self.weights = list(range(1, ITEMS + 1))
        self.upto = list(itertools.accumulate(self.weights))

    def __len__(self) -> int:
        return ITEMS // BATCH

    def __iter__(self) -> Iterator[list[int]]:
        if args.cured:
            yield from torch.multinomial(torch.tensor(self.weights).float(), ITEMS, True).view(-1, BATCH).tolist()
            return
        for _ in range(len(self)):
            chosen: list[int] = []
            for value in [random.uniform(0, self.upto[-1]) for _ in range(BATCH)]:
                place = next(number for number, upto in enumerate(self.upto) if upto >= value)
                chosen.append(place)
            yield chosen


model = nn.Sequential(nn.Linear(128, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(Rows(), batch_sampler=Weighted(), num_workers=1, persistent_workers=True)

for epoch in range(3):
    for rows, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(rows), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
