"""One batch in fifteen comes from the store much later than the others.

Planted: two batches ahead of each worker, which last the loop less than a slow one takes
Where:   loader = DataLoader(Stored(), batch_size=16, num_workers=2, prefetch_factor=16 if args.cured else 2)
Verdict: data-loading
Rule:    data/uneven-batches
Cores:   2
Cured:   --cured prepares sixteen batches ahead
"""

import argparse
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Stored(Dataset):
    """Pictures, of which one in 240 takes long to come."""

    def __len__(self) -> int:
        return 3600

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(0.1 if index % 240 == 160 else 0.0003)
        return torch.randn(3, 24, 24) + index % 2, index % 2


model = nn.Sequential(
    nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 40, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(), nn.Linear(40, 2),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
loader = DataLoader(Stored(), batch_size=16, num_workers=2, prefetch_factor=16 if args.cured else 2)

for pictures, labels in loader:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(pictures), labels)
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
