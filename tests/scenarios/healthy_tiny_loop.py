"""A linear regression with steps of a tenth of a millisecond: Python is most of it, and it hardly matters.

Planted: nothing
Verdict: compute | host-overhead | none
"""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs = torch.randn(256, 4)
targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + 0.1
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
criterion = nn.MSELoss()

for _ in range(4000):
    optimizer.zero_grad()
    loss = criterion(model(inputs), targets)
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.5f}")
