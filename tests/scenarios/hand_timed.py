"""A training that times itself by hand, around what it does itself; the last line it prints is JSON.

    python hand_timed.py             steps of some milliseconds
    python hand_timed.py --short     steps of less than one

The loss is a loss function, so forward ends where the backward pass begins.
"""

import argparse
import json
import time
from itertools import pairwise

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--short", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

WIDTH, BATCH, STEPS = (32, 16, 1500) if args.short else (512, 192, 240)
data = TensorDataset(torch.randn(STEPS * BATCH, 64), torch.randint(10, (STEPS * BATCH,)))
loader = DataLoader(data, batch_size=BATCH)
model = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
optimizer = torch.optim.AdamW(model.parameters())

now = time.perf_counter
rows = []  # moments of each step: begin, data there, loss there, gradients there, updated
batches = iter(loader)
for _ in range(STEPS):
    begin = now()
    inputs, labels = next(batches)
    loaded = now()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    computed = now()
    loss.backward()
    differentiated = now()
    optimizer.step()
    optimizer.zero_grad()
    rows.append((begin, loaded, computed, differentiated, now()))

stages = ("data_wait", "forward", "backward", "optimizer")
print(
    json.dumps(
        {
            "stages_ms": {
                stage: [1e3 * (row[number + 1] - row[number]) for row in rows] for number, stage in enumerate(stages)
            },
            "steps_ms": [1e3 * (after[0] - row[0]) for row, after in pairwise(rows)],
        }
    )
)
