"""The largest output of each layer is turned into a number, to see whether it is too large.

Planted: .item() after each layer
Where:   if peak.item() > 1e6:
Verdict: synchronization
Rule:    sync/item
Cured:   --cured looks at them together, every 50th step
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
peaks: list[Tensor] = []


def watch(outputs: Tensor) -> None:
    """Stop where numbers grow too large."""
    peak = outputs.detach().amax()
    if args.cured:
        peaks.append(peak)
    else:
        if peak.item() > 1e6:
            raise SystemExit("too large")


model = Watched(watch).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
inputs = torch.randn(4096, 2048, device="cuda")
for step in range(1500):
    loss = model(inputs).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if args.cured and step % 50 == 0 and torch.stack(peaks).amax().item() > 1e6:
        raise SystemExit("too large")
    peaks.clear()
