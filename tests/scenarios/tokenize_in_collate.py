"""Text is split into tokens by a regular expression inside the collate function, in every epoch.

Planted: the same lines are tokenised again and again
Where:   found = [vocabulary.get(word, 0) for word in TOKEN.findall(line)]
Verdict: data-preprocessing
Rule:    data/
Cured:   --cured tokenises each line once, before the training
"""

import argparse
import re
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

TOKEN = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|\s+|.")
LENGTH = 512

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

library = Path(sysconfig.get_path("stdlib"))
source = "".join((library / name).read_text() for name in ("argparse.py", "tarfile.py", "typing.py", "pickle.py"))
passages = [source[start : start + 2000] for start in range(0, len(source) - 2000, 320)]
words = sorted(set(TOKEN.findall(source)))
vocabulary = {word: number for number, word in enumerate(words, start=1)}


def tokenize(line: str) -> list[int]:
    found = [vocabulary.get(word, 0) for word in TOKEN.findall(line)]
    return (found + [0] * LENGTH)[:LENGTH]


def collate(batch: list[str] | list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(batch) if args.cured else torch.tensor([tokenize(line) for line in batch])


class Model(nn.Module):
    """Guess the last token from those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(len(words) + 1, 64)
        self.head = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, len(words) + 1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens))


model = Model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
data = [torch.tensor(tokenize(passage)) for passage in passages] if args.cured else passages
loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True, collate_fn=collate)

for epoch in range(6):
    for tokens in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]), tokens[:, -1])
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
