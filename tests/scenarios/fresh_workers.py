"""Two workers are started again for each epoch of sixteen steps.

Planted: workers that end with the epoch
Where:   loader = DataLoader(Rows(), batch_size=64, shuffle=True, num_workers=2, persistent_workers=args.cured)
Verdict: data-loading
Rule:    data/workers-restarted
Cores:   2
Cured:   --cured has persistent_workers=True
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Rows(Dataset):
    """Sorted noise about the row's number."""

    def __len__(self) -> int:
        return 1024

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return (torch.randn(128) + index / 1024).sort().values, index % 2


model = nn.Sequential(nn.Linear(128, 640), nn.ReLU(), nn.Linear(640, 640), nn.ReLU(), nn.Linear(640, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(Rows(), batch_size=64, shuffle=True, num_workers=2, persistent_workers=args.cured)

for epoch in range(14):
    for rows, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(rows), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
