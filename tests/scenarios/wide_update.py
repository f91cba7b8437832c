"""A large embedding is updated after every sixteen of its rows.

Planted: a foreach update of two million parameters for sixteen items
Where:   optimizer.step()
Verdict: optimizer | compute
Rule:    optimizer/accumulate
Note:    yes
Twin:    optimizer | compute
Cured:   --cured updates after four batches
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

EVERY = 4 if args.cured else 1
model = nn.Sequential(nn.Embedding(60_000, 32, sparse=False), nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
wanted = torch.randn(60_000, 1)

for step in range(400):
    chosen = torch.randint(len(wanted), (16,))
    loss = nn.functional.mse_loss(model(chosen), wanted[chosen])
    loss.backward()
    if (step + 1) % EVERY == 0:
        optimizer.step()
        optimizer.zero_grad()
print(f"loss {loss.item():.3f}")
