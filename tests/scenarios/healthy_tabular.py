"""A regression on a table, with a metric at the end of each epoch.

Planted: nothing
Verdict: compute
"""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

table = torch.randn(16384, 40)
price = (table[:, :5].abs().sum(1) + table[:, 5:10].prod(1)).unsqueeze(1)
train, test = slice(0, 12288), slice(12288, None)
model = nn.Sequential(
    nn.Linear(40, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)
)
criterion = nn.HuberLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

for epoch in range(8):
    model.train()
    for chosen in torch.randperm(12288).split(256):
        loss = criterion(model(table[train][chosen]), price[train][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        error = (model(table[test]) - price[test]).abs().mean()
    print(f"epoch {epoch}: mean error {error.item():.3f}")
