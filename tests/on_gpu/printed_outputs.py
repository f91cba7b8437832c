"""Some outputs of each layer are printed in every step.

Planted: print(tensor) after each layer
Where:   print(outputs[0, :4])
Verdict: synchronization
Rule:    sync/print-tensor
Twin:    compute | host-overhead
Cured:   --cured prints in every 50th step
"""

import argparse

import torch
from parts import Watched
from torch import Tensor

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.set_float32_matmul_precision("high")
step = 0


def watch(outputs: Tensor) -> None:
    """Show some numbers."""
    if not args.cured or step % 50 == 0:
        print(outputs[0, :4])


model = Watched(watch).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
inputs = torch.randn(4096, 2048, device="cuda")
for step in range(1500):  # noqa: B007 - watch() reads it
    loss = model(inputs).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
