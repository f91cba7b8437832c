"""A recommender: sparse gradients for two tables of embeddings, dense ones for the rest.

Planted: nothing
Verdict: compute
"""

import torch
from torch import nn

USERS, ITEMS = 20_000, 8_000

torch.manual_seed(0)
torch.set_num_threads(1)

users = nn.Embedding(USERS, 64, sparse=True)
items = nn.Embedding(ITEMS, 64, sparse=True)
head = nn.Sequential(nn.Linear(128, 384), nn.ReLU(), nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 1))
tables = torch.optim.SparseAdam([*users.parameters(), *items.parameters()], lr=1e-3)
dense = torch.optim.AdamW(head.parameters(), lr=1e-3, fused=True)
pairs = torch.stack([torch.randint(USERS, (65_536,)), torch.randint(ITEMS, (65_536,))], 1)
liked = ((pairs[:, 0] + pairs[:, 1]) % 3 == 0).float()

for step in range(260):
    chosen = torch.randint(len(pairs), (512,))
    user, item = pairs[chosen].unbind(1)
    score = head(torch.cat([users(user), items(item)], 1)).squeeze(1)
    loss = nn.functional.binary_cross_entropy_with_logits(score, liked[chosen])
    tables.zero_grad()
    dense.zero_grad()
    loss.backward()
    tables.step()
    dense.step()
    if step % 100 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
