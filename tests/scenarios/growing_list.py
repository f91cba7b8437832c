"""Predictions are kept for a plot at the end, each with the graph and the activations that made it.

Planted: a list of tensors that still hold their graph
Verdict: memory
Where:   history.append(hidden.mean().item() if args.cured else hidden)
Rule:    memory/kept-graph
Live:    yes
Cured:   --cured keeps numbers
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

body = nn.Sequential(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
head = nn.Linear(512, 8)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.05)
inputs = torch.randn(8192, 128)
targets = inputs[:, :8].sin()
history = []

for step in range(450):
    chosen = torch.randint(len(inputs), (256,))
    optimizer.zero_grad()
    hidden = body(inputs[chosen])
    loss = nn.functional.mse_loss(head(hidden), targets[chosen])
    loss.backward()
    optimizer.step()
    history.append(hidden.mean().item() if args.cured else hidden)
    if step % 100 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
