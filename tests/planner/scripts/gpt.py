"""A GPT as nanoGPT writes one: hand-made batches, an evaluation first, the loss inside forward."""

import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as functional

parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int, default=2)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--vocabulary", type=int, default=512)
arguments = parser.parse_args()
block, batch = 64, 8
device = "cuda" if torch.cuda.is_available() else "cpu"
data = np.random.default_rng(0).integers(0, arguments.vocabulary, 10_000)


def get_batch():
    starts = torch.randint(len(data) - block, (batch,))
    x = torch.stack([torch.from_numpy(data[i : i + block]) for i in starts])
    y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + block]) for i in starts])
    return x.to(device), y.to(device)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        rows, length, width = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(width, 2)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).contiguous().view(rows, length, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        width = arguments.width
        self.tokens, self.positions = nn.Embedding(arguments.vocabulary, width), nn.Embedding(block, width)
        self.blocks = nn.ModuleList([Block(width, 4) for _ in range(arguments.depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, arguments.vocabulary, bias=False)
        self.tokens.weight = self.head.weight

    def forward(self, tokens, targets=None):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for each in self.blocks:
            x = each(x)
        logits = self.head(self.norm(x))
        loss = None if targets is None else functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss


model = GPT().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


@torch.no_grad()
def evaluate():
    model.eval()
    losses = torch.zeros(2)
    for index in range(2):
        losses[index] = model(*get_batch())[1].item()
    model.train()
    return losses.mean()


print(f"before: {evaluate():.3f}")
for _ in range(3):
    logits, loss = model(*get_batch())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
