"""Gradients are dropped only before backward, and scores are kept until the next ones are there.

Planted: zero_grad() between forward and backward, and outputs that no one deletes
Where:   optimizer.zero_grad()
Verdict: compute
Rule:    memory/gradients-kept
Also:    memory/late-del
Note:    yes
Settings: memory/gradients-kept.least_mib = 2, memory/late-del.least_mib = 2
Live:    yes
Cured:   --cured drops the gradients after the update, and deletes the scores
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 2048))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
inputs = torch.randn(4096, 512)
targets = inputs.argmax(1)

for _ in range(80):
    chosen = torch.randint(len(inputs), (512,))
    scores = model(inputs[chosen])
    loss = nn.functional.cross_entropy(scores, targets[chosen])
    if args.cured:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        del scores
    else:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"loss {loss.item():.3f}")
