"""A small transformer that writes its attention out: scores, mask, softmax, weighted sum.

Planted: attention in four operators that keep every score
Where:   weights = torch.softmax(scores, dim=-1)
Verdict: compute
Rule:    compute/unfused-attention
Live:    yes
Cured:   --cured lets scaled_dot_product_attention do it
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

LENGTH, WIDTH, HEADS, LAYERS, BATCH = 128, 64, 4, 2, 8
SECONDS = 9  # the operators are looked at after five
future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if args.cured:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5
        scores = scores.masked_fill(future, float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        return weights @ v

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).view(BATCH, LENGTH, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return x + self.project(self.attend(q, k, v).transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))


model = nn.Sequential(nn.Embedding(256, WIDTH), *[Block() for _ in range(LAYERS)], nn.Linear(WIDTH, 256))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
tokens = torch.randint(256, (100_000,)).cumsum(0).remainder(256)

started, step = time.perf_counter(), 0
while time.perf_counter() - started < SECONDS:
    starts = torch.randint(len(tokens) - LENGTH, (BATCH, 1))
    windows = tokens[starts + torch.arange(LENGTH + 1)]
    loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step += 1
print(f"{step} steps, loss {loss.item():.3f}")
