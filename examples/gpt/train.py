"""A small GPT learns to write Python, from the standard library's own sources.

    python examples/gpt/train.py                     # slow: encodes text anew for every batch
    python examples/gpt/train.py --batch array       # cured: one array of tokens, sliced

Each flag plants one bottleneck, or cures it; `examples/README.md` says which verdict to expect.
"""

import argparse
import random
import sysconfig
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--context", type=int, default=64, help="characters that the model sees")
parser.add_argument("--layers", type=int, default=4)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--batch", choices=["text", "array"], default="text", help="where get_batch() cuts from")
parser.add_argument("--optimizer", choices=["loop", "fused"], default="fused", help="how AdamW updates")
parser.add_argument("--eval-interval", type=int, default=100, help="steps between evaluations")
parser.add_argument("--eval-batches", type=int, default=10)
parser.add_argument("--accumulate", type=int, default=1, help="micro-batches in one step")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

torch.manual_seed(args.seed)
random.seed(args.seed)
torch.set_num_threads(args.threads)

# the text: the standard library, one character a token
sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
texts = [path.read_text(encoding="utf-8", errors="ignore") for path in sources]
texts = [source for source in texts if len(source) > 2 * args.context]
text = "".join(texts)
alphabet = sorted(set(text))
number = {character: index for index, character in enumerate(alphabet)}
vocabulary = len(alphabet)
tokens = torch.tensor([number[character] for character in text]) if args.batch == "array" else None
print(f"{len(texts)} files, {len(text):,} characters, {vocabulary} different ones")


def batch_from_text() -> torch.Tensor:
    """Encode a whole file for every row, and keep a line or two of it."""
    rows = []
    for source in random.choices(texts, k=args.batch_size):
        encoded = [number[character] for character in source]
        start = random.randrange(len(encoded) - args.context - 1)
        rows.append(encoded[start : start + args.context + 1])
    return torch.tensor(rows)


def batch_from_array() -> torch.Tensor:
    """Slices of the tokens."""
    starts = torch.randint(len(tokens) - args.context - 1, (args.batch_size,))
    return torch.stack([tokens[start : start + args.context + 1] for start in starts])


def get_batch() -> tuple[torch.Tensor, torch.Tensor]:
    rows = batch_from_text() if args.batch == "text" else batch_from_array()
    return rows[:, :-1], rows[:, 1:]


class Block(nn.Module):
    """Attention over what came before, then a small network at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(args.width)
        self.qkv = nn.Linear(args.width, 3 * args.width)
        self.project = nn.Linear(args.width, args.width)
        self.before_mlp = nn.LayerNorm(args.width)
        self.mlp = nn.Sequential(
            nn.Linear(args.width, 4 * args.width), nn.GELU(), nn.Linear(4 * args.width, args.width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(batch, length, 3, args.heads, width // args.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, args.width)
        self.position = nn.Embedding(args.context, args.width)
        self.blocks = nn.Sequential(*[Block() for _ in range(args.layers)])
        self.norm = nn.LayerNorm(args.width)
        self.head = nn.Linear(args.width, vocabulary, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1])
        return self.head(self.norm(self.blocks(self.token(x) + self.position(places))))


def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def evaluate() -> float:
    model.eval()
    mean = sum(loss_of(*get_batch()).item() for _ in range(args.eval_batches)) / args.eval_batches
    model.train()
    return mean


model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=args.optimizer == "fused")
started = time.perf_counter()

for step in range(args.steps):
    if step and step % args.eval_interval == 0:
        seconds = time.perf_counter() - started
        print(f"step {step}: loss {evaluate():.3f}, {1000 * seconds / step:.1f} ms a step")
    for _ in range(args.accumulate):
        x, y = get_batch()
        loss = loss_of(x, y) / args.accumulate
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()

print(f"done: loss {evaluate():.3f}, {time.perf_counter() - started:.1f} s")
