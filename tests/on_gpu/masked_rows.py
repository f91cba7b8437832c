"""Of each layer's outputs the rows that a mask chooses are looked at.

Planted: norms[mask] after each layer
Where:   penalties.append(norms[mask].mean())
Verdict: synchronization
Rule:    sync/data-dependent-shape
Cured:   --cured weighs them by the mask
"""

import argparse

import torch
from parts import Watched
from torch import Tensor

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_float32_matmul_precision("high")
penalties: list[Tensor] = []
mask = torch.rand(4096, device="cuda") > 0.5


def watch(outputs: Tensor) -> None:
    """A penalty for large rows."""
    norms = outputs.norm(dim=1)
    if args.cured:
        penalties.append((norms * mask).sum() / mask.sum())
    else:
        penalties.append(norms[mask].mean())


model = Watched(watch).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
inputs = torch.randn(4096, 2048, device="cuda")
for _ in range(1500):
    loss = model(inputs).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    penalties.clear()
