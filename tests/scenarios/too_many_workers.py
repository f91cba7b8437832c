"""Eight workers sort numbers on two cores.

Planted: four workers for each core
Where:   loader = DataLoader(Sorted(), batch_size=32, num_workers=workers, persistent_workers=True)
Verdict: data-preprocessing
Note:    fewer workers would make as many batches
Rule:    data/too-many-workers
Cores:   2
Cured:   --cured has one worker, and less to sort
"""

import argparse
import os

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


class Sorted(Dataset):
    """Sorted noise."""

    def __len__(self) -> int:
        return 4800

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.randn(512 if args.cured else 16384).sort().values[:512], index % 2


model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
workers = 1 if args.cured else 8
loader = DataLoader(Sorted(), batch_size=32, num_workers=workers, persistent_workers=True)

for epoch in range(2):
    for rows, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(rows), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
