"""A small GPT-2 learns from the standard library's sources. It starts slow in eight ways, to be cured one by one.

    python examples/gpt2/train.py                # all eight
    python examples/gpt2/train.py --cured 3      # without the first three

What is slow is marked `slow 1` to `slow 8`, in the order in which `prof attach` finds it.
"""

import argparse
import copy
import gc
import json
import random
import re
import sysconfig
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--cured", type=int, default=0, help="so many of the eight are cured, from the first on")
parser.add_argument("--seconds", type=float, default=11, help="how long to train")
args = parser.parse_args()

BATCH, CONTEXT, WIDTH, HEADS, LAYERS, VOCABULARY = 1, 384, 64, 4, 4, 1024
torch.manual_seed(0)
random.seed(0)
torch.set_num_threads(1)


def slow(number: int) -> bool:
    """Whether this one is still to be cured."""
    return args.cured < number


# the text: the standard library, cut into the longest pieces that the vocabulary has

folder = Path(sysconfig.get_path("stdlib"))
texts = [path.read_text(encoding="utf-8", errors="ignore")[:20_000] for path in sorted(folder.glob("*.py"))]
texts = [text for text in texts if len(text) == 20_000][:30]
found = Counter(re.findall(r"\w{1,12}|[^\w\s]+|\s+", "".join(texts)))
characters = {chr(number) for number in range(128)}
pieces = [*sorted(characters), *[piece for piece, _ in found.most_common() if piece not in characters]]
number_of = {piece: number for number, piece in enumerate(pieces[:VOCABULARY])}
LONGEST = max(map(len, number_of))


def encode(text: str) -> list[int]:
    numbers, place = [], 0
    while place < len(text):
        for length in range(LONGEST, 0, -1):
            if text[place : place + length] in number_of:
                break
        numbers.append(number_of.get(text[place : place + length], 0))
        place += length
    return numbers


tokens = torch.tensor([number for text in texts for number in encode(text)])


def get_batch() -> tuple[torch.Tensor, torch.Tensor]:
    if slow(3):  # encodes a whole file for every row, and keeps a part of it
        rows = [torch.tensor(encode(random.choice(texts))) for _ in range(BATCH)]
    else:
        rows = [tokens for _ in range(BATCH)]
    starts = [random.randrange(len(row) - CONTEXT) for row in rows]
    windows = torch.stack([row[start : start + CONTEXT + 1] for row, start in zip(rows, starts, strict=True)])
    return windows[:, :-1], windows[:, 1:]


# the model


def gelu(x: torch.Tensor) -> torch.Tensor:
    if slow(7):  # as GPT-2's first sources had it
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))
    return F.gelu(x, approximate="tanh")


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    if slow(5):  # every score is written, masked, read, kept
        scores = q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5
        scores = scores.masked_fill(torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1), float("-inf"))
        return torch.softmax(scores, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.before_attention(x)).view(BATCH, CONTEXT, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        x = x + self.project(attend(q, k, v).transpose(1, 2).reshape(BATCH, CONTEXT, WIDTH))
        return x + self.down(gelu(self.up(self.before_mlp(x))))


class GPT2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.token(x) + self.position(torch.arange(CONTEXT)))))


# the loop

model = GPT2()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=not slow(8))  # slow 8: one tensor after the other
data = Path(__file__).parents[1] / "data"
data.mkdir(exist_ok=True)
log = (data / "gpt2_weights.json").open("w")
right = step = 0
parts = [model.token.weight, model.head.weight]  # whose values are counted in the log
EVERY = 100  # steps between two looks, once cured
LEAST = 50  # steps, so that there is something to judge


def guess_score(logits: torch.Tensor, targets: torch.Tensor) -> int:
    """How many next words were among the five likeliest, counted in Python."""
    found = 0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        found += target in sorted(range(VOCABULARY), key=row.__getitem__)[-5:]
    return found


started = time.perf_counter()
while step < LEAST or time.perf_counter() - started < args.seconds:
    x, y = get_batch()
    logits = model(x).flatten(0, 1)
    loss = F.cross_entropy(logits, y.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if slow(1):
        gc.collect()
    if slow(2) or step % EVERY == 0:
        log.write(json.dumps(Counter(round(value, 2) for p in parts for value in p.flatten().tolist())))
    if slow(4) or step % EVERY == 0:
        right += guess_score(logits.detach(), y.flatten())
    if slow(6) or step % EVERY == 0:
        kept = copy.deepcopy((model, optimizer.state_dict()))  # to go back to, should the loss explode
    step += 1

took = time.perf_counter() - started
print(f"{step} steps of {1000 * took / step:.1f} ms, loss {loss.item():.3f}")
