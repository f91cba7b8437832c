"""An index is read before the first step, for four times as long as torch takes to be imported.

Planted: a start that takes longer than the training
Verdict: other
Rule:    run/startup-dominates
Settings: run/startup-dominates.min_run_s = 1, run/startup-dominates.note = 0.65, run/startup-dominates.warn = 0.65
Span:    startup 0.65
Cured:   --cured finds the index in a file
"""

import argparse
import time

began = time.monotonic()

import torch  # noqa: E402 - timed
from torch import nn  # noqa: E402

import_s = time.monotonic() - began

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


def read_index() -> torch.Tensor:
    """Where each row begins."""
    if not args.cured:
        time.sleep(3 * import_s)
    return torch.randperm(8192)


index = read_index()
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(8192, 64)
targets = inputs[:, :8].sin()

began = time.monotonic()
while time.monotonic() - began < 1.6 * import_s:
    chosen = index[torch.randint(len(inputs), (256,))]
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
