"""The loop waits for the device after each layer, as somebody left it who timed them.

Planted: torch.cuda.synchronize() after each layer
Where:   torch.cuda.synchronize()
Verdict: synchronization
Rule:    sync/explicit-synchronize
Cured:   --cured leaves it out
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


def watch(outputs: Tensor) -> None:
    """Time the layer."""
    if not args.cured:
        torch.cuda.synchronize()


model = Watched(watch).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
inputs = torch.randn(4096, 2048, device="cuda")
for _ in range(1500):
    loss = model(inputs).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
