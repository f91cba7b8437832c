"""A frozen encoder with low-rank adapters on its linear layers, under autocast."""

import torch
import torch.nn as nn


class Adapted(nn.Module):
    def __init__(self, linear, rank):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


layers = [module for _ in range(4) for module in (Adapted(nn.Linear(256, 256), 8), nn.ReLU())]
model = nn.Sequential(*layers, Adapted(nn.Linear(256, 256), 8))
optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad])
for _ in range(3):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.rand(16, 256)).pow(2).mean()
    loss.backward()
    optimizer.step()
