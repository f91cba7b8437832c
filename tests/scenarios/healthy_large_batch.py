"""Few steps, each over a large part of the data set.

Planted: nothing
Verdict: compute
"""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs = torch.randn(65_536, 32)
targets = inputs[:, :4].sin().sum(1, keepdim=True)
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)

for step in range(60):
    batch = slice(16_384 * (step % 4), 16_384 * (step % 4 + 1))
    loss = nn.functional.mse_loss(model(inputs[batch]), targets[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
print(f"loss {loss.item():.3f}")
