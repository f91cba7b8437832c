"""All cores pad sentences number by number in Python.

Planted: a collate function that builds nested lists
Where:   row = [sentence[place].item() if place < len(sentence) else 0 for place in range(longest)]
Verdict: data-preprocessing
Rule:    data/slow-collate
Cores:   2
Live:    yes
Cured:   --cured pads with torch.nn.utils.rnn.pad_sequence, which is too little work for workers
"""

import argparse
import os

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

VOCABULARY, LONGEST = 2000, 128

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # as many cores as workers


class Sentences(Dataset):
    """Sequences of token numbers; the label tells whether the first is even."""

    def __init__(self) -> None:
        lengths = torch.randint(LONGEST // 2, LONGEST, (2400,)).tolist()
        self.sentences = [torch.randint(1, VOCABULARY, (length,)) for length in lengths]

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.sentences[index], int(self.sentences[index][0]) % 2


def collate(batch: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    sentences = [sentence for sentence, _ in batch]
    labels = torch.tensor([label for _, label in batch])
    if args.cured:
        return pad_sequence(sentences, batch_first=True), labels
    rows, longest = [], max(map(len, sentences))
    for sentence in sentences:
        row = [sentence[place].item() if place < len(sentence) else 0 for place in range(longest)]
        rows.append(row)
    return torch.tensor(rows), labels


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.convolution = nn.Conv1d(16, 32, 3, padding=1)
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, 2))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(self.embedding(rows).transpose(1, 2)))


model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
workers = 0 if args.cured else 2
loader = DataLoader(
    Sentences(),
    batch_size=48,
    shuffle=True,
    collate_fn=collate,
    num_workers=workers,
    persistent_workers=workers > 0,
)

for epoch in range(4):
    for rows, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(rows), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
