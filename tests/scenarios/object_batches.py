"""Workers send the words of each sentence along as a list of strings, which the loop never reads.

Planted: batches of Python objects
Where:   loader = DataLoader(Sentences(), batch_size=128, collate_fn=collate, num_workers=1, persistent_workers=True)
Verdict: data-preprocessing
Rule:    data/python-objects
Settings: memory/growth.growth_mib = 128
Cores:   2
Cured:   --cured sends tensors alone
"""

import argparse
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Sentences(Dataset):
    """Sentences of 32 words: their numbers, and what stands in the text."""

    def __init__(self) -> None:
        self.numbers = torch.randint(5000, (1280, 32))
        self.words = [[(f"w{number}", number) for number in range(160)] for _ in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, list[Any]]:
        chosen = self.numbers[index, torch.randn(64).sort().indices[:16] % 32]
        return chosen, [] if args.cured else self.words[index]


def collate(items: list[tuple[torch.Tensor, list[Any]]]) -> tuple[torch.Tensor, list[list[Any]]]:
    numbers, words = zip(*items, strict=True)
    return torch.stack(numbers), list(words)


model = nn.Sequential(nn.EmbeddingBag(5000, 256), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
head = nn.Linear(512, 2)
optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], fused=True)
loader = DataLoader(Sentences(), batch_size=128, collate_fn=collate, num_workers=1, persistent_workers=True)

for epoch in range(16):
    for numbers, _words in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(model(numbers)), numbers[:, 0] % 2)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
