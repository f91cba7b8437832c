"""A batch is cut out of a Python list, number by number; there is no DataLoader.

Planted: list comprehensions over a long list of numbers
Where:   windows = torch.tensor([[text[start + place] for place in range(CONTEXT)] for start in starts])
Verdict: data-preprocessing | host-overhead
Rule:    host/python-line
Live:    yes
Cured:   --cured slices one tensor
"""

import argparse
import random

import torch
from torch import nn

CONTEXT, BATCH, VOCABULARY = 64, 256, 128

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
random.seed(0)
torch.set_num_threads(1)

text = [random.randrange(VOCABULARY) for _ in range(200_000)]
windows_of_all = torch.tensor(text).unfold(0, CONTEXT, 1)


def get_batch() -> tuple[torch.Tensor, torch.Tensor]:
    if args.cured:
        windows = windows_of_all[torch.randint(len(windows_of_all), (BATCH,))]
        return windows[:, :-1], windows[:, -1]
    starts = [random.randrange(len(text) - CONTEXT) for _ in range(BATCH)]
    windows = torch.tensor([[text[start + place] for place in range(CONTEXT)] for start in starts])
    return windows[:, :-1], windows[:, -1]


model = nn.Sequential(
    nn.Embedding(VOCABULARY, 8),
    nn.Flatten(),
    nn.Linear(8 * (CONTEXT - 1), 128),
    nn.ReLU(),
    nn.Linear(128, VOCABULARY),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(450):
    contexts, targets = get_batch()
    loss = nn.functional.cross_entropy(model(contexts), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
