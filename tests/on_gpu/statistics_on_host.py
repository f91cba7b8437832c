"""The mean of each layer's outputs is copied to the host in every step.

Planted: .cpu() after each layer
Where:   means.append(outputs.detach().mean().cpu())
Verdict: synchronization
Rule:    sync/copy-to-host
Cured:   --cured keeps them on the device until the 50th step
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
means: list[Tensor] = []


def watch(outputs: Tensor) -> None:
    """Keep a statistic."""
    if args.cured:
        means.append(outputs.detach().mean())
    else:
        means.append(outputs.detach().mean().cpu())


model = Watched(watch).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
inputs = torch.randn(4096, 2048, device="cuda")
for step in range(1500):
    loss = model(inputs).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 50 == 0:
        print(torch.stack(means).cpu()[-1])
        means.clear()
