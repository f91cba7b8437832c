"""Two workers read a long list of strings, and copy it page by page.

Planted: a data set that holds Python objects
Where:   loader = DataLoader(Names(), batch_size=256, shuffle=True, num_workers=2, persistent_workers=True)
Verdict: compute
Note:    a copy of a few hundred megabytes is no danger on most machines
Rule:    memory/worker-copies
Settings: memory/growth.growth_mib = 128
Cores:   2
Cured:   --cured holds the text as one array of bytes
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

ITEMS = 36_000

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Names(Dataset):
    """Texts of 4 kB, of which the network sees the first 64 letters."""

    def __init__(self) -> None:
        texts = [f"{number:08d} " * 450 for number in range(ITEMS)]
        self.texts = np.frombuffer("".join(texts).encode(), np.uint8).reshape(ITEMS, -1) if args.cured else texts

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        text = self.texts[index]
        letters = text[:64].copy() if args.cured else np.frombuffer(text[:64].encode(), np.uint8).copy()
        return torch.from_numpy(letters), index % 2


model = nn.Sequential(nn.EmbeddingBag(256, 512), nn.Linear(512, 1536), nn.ReLU(), nn.Linear(1536, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(Names(), batch_size=256, shuffle=True, num_workers=2, persistent_workers=True)

for letters, labels in loader:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(letters.int()), labels)
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
