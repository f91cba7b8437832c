"""Every 80th step waits until a file holds the model and its table.

Planted: checkpoints written by the thread that trains
Verdict: compute
Note:    a checkpoint is worth some waiting
Rule:    run/synchronous-checkpoint
Settings: run/synchronous-checkpoint.min_run_s = 1, run/synchronous-checkpoint.least_s = 0.01
Cores:   2
Cured:   --cured writes a copy from another thread
"""

import argparse
import copy
import tempfile
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))
table = nn.Embedding(40_000, 256)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(8192, 64)
targets = inputs[:, :8].sin()
folder = tempfile.TemporaryDirectory()


def save(state: dict[str, Any]) -> None:
    """Write a checkpoint."""
    torch.save(state, Path(folder.name, "last.pt"))


writer = None
for step in range(400):
    chosen = torch.randint(len(inputs), (256,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
    loss.backward()
    optimizer.step()
    if step % 80 == 79:
        state = {"model": model.state_dict(), "table": table.state_dict()}
        if not args.cured:
            save(state)
            continue
        if writer is not None:
            writer.join()
        writer = Thread(target=save, args=(copy.deepcopy(state),))
        writer.start()
if writer is not None:
    writer.join()
folder.cleanup()
print(f"loss {loss.item():.3f}")
