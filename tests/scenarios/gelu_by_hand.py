"""A small network whose activation is written out as GPT-2's first sources had it.

Planted: GELU in eight element-wise operators
Where:   return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))
Verdict: compute
Rule:    compute/small-kernels
Cured:   --cured calls gelu
"""

import argparse
import time

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

SECONDS = 9  # the operators are looked at after five


class Gelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if args.cured:
            return nn.functional.gelu(x, approximate="tanh")
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))


model = nn.Sequential(
    nn.Linear(64, 256), Gelu(), nn.Linear(256, 256), Gelu(), nn.Linear(256, 256), Gelu(), nn.Linear(256, 10)
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(8192, 64)
targets = inputs[:, :10].argmax(1)

started, step = time.perf_counter(), 0
while time.perf_counter() - started < SECONDS:
    chosen = torch.randint(len(inputs), (256,))
    loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step += 1
print(f"{step} steps, loss {loss.item():.3f}")
