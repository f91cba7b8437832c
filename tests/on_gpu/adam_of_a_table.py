"""A table that fills an eighth of the device, with its gradient and the two averages that Adam keeps of it.

Planted: AdamW's states take half of what the training holds
Verdict: optimizer | compute
Rule:    memory/optimizer-states-dominate
Note:    yes
Twin:    optimizer | compute
Cured:   --cured takes SGD without momentum
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)

rows = torch.cuda.get_device_properties(0).total_memory // 8 // 1024
model = nn.Sequential(nn.Embedding(rows, 256, device="cuda"), nn.Flatten(), nn.Linear(64 * 256, 10, device="cuda"))
kind = torch.optim.SGD if args.cured else torch.optim.AdamW
optimizer = kind(model.parameters(), 0.01, fused=True)
items, labels = torch.randint(rows, (512, 64), device="cuda"), torch.randint(10, (512,), device="cuda")
for _ in range(300):
    loss = nn.functional.cross_entropy(model(items), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
