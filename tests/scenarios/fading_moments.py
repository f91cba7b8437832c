"""After its first epoch a large embedding is trained on a few of its rows, and the other rows' moments fade away.

Planted: moments of Adam that become denormal numbers
Where:   optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
Verdict: compute | optimizer
Rule:    compute/denormals
Twin:    compute | optimizer
Cured:   --cured takes them for zero
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
if args.cured:
    torch.set_flush_denormal(True)

ROWS, WIDTH, OFTEN = 20_000, 16, 500


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ROWS, WIDTH)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.out(self.items(rows)).squeeze(1)


model = Scores()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
wanted = torch.randn(ROWS)
rows = torch.arange(ROWS)

for step in range(5000):
    chosen = rows if step < 5 else torch.randint(OFTEN, (256,))
    loss = nn.functional.mse_loss(model(chosen), wanted[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
