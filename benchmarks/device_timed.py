"""A training on an accelerator that times itself by events of its own; the last line it prints is JSON.

A GPT of 85 million parameters and its head, as nanoGPT writes one: no DataLoader, autocast to bf16, fused AdamW.
"""

import json
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

WIDTH, HEADS, LAYERS, CONTEXT, BATCH, VOCABULARY, STEPS = 768, 12, 12, 1024, 8, 50304, 250
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, _ = x.shape
        q, k, v = self.qkv(self.before_attention(x)).view(rows, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).reshape(rows, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.before_mlp(x))))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.token(x) + self.position(torch.arange(CONTEXT, device=x.device)))))


def moment() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


model = GPT().cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
data = torch.randint(VOCABULARY, (1_000_000,))
rows = []  # moments of each step: data there, loss there, gradients there, updated
for _ in range(STEPS):
    starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,)).tolist()
    windows = torch.stack([data[start : start + CONTEXT + 1] for start in starts]).pin_memory()
    windows = windows.cuda(non_blocking=True)
    began = moment()
    with torch.autocast("cuda", torch.bfloat16):
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    computed = moment()
    loss.backward()
    differentiated = moment()
    optimizer.step()
    optimizer.zero_grad()
    rows.append((began, computed, differentiated, moment()))
torch.cuda.synchronize()

stages = ("forward", "backward", "optimizer")
print(
    json.dumps(
        {
            "stages_ms": {
                stage: [row[number].elapsed_time(row[number + 1]) for row in rows]
                for number, stage in enumerate(stages)
            },
            "steps_ms": [row[0].elapsed_time(after[0]) for row, after in pairwise(rows)],
        }
    )
)
