"""Each step keeps a record with every prediction as a number of Python's.

Planted: records in a list that nobody empties
Verdict: memory
Rule:    memory/python-objects
Cured:   --cured keeps the last record alone
"""

import argparse
import time
from collections import deque
from typing import Any

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

SECONDS = 16  # the interpreter's blocks are counted every few seconds
model = nn.Sequential(nn.Linear(128, 768), nn.ReLU(), nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 16))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(8192, 128)
targets = inputs[:, :16].sin()
records: deque[dict[str, Any]] = deque(maxlen=1 if args.cured else None)

started, step = time.perf_counter(), 0
while time.perf_counter() - started < SECONDS:
    chosen = torch.randint(len(inputs), (256,))
    optimizer.zero_grad()
    predictions = model(inputs[chosen])
    loss = nn.functional.mse_loss(predictions, targets[chosen])
    loss.backward()
    optimizer.step()
    step += 1
    records.append({"step": step, "loss": loss.item(), "predictions": predictions.detach().flatten().tolist()})
print(f"loss {loss.item():.3f}, {len(records)} records")
