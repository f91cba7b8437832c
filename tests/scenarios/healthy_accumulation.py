"""Four micro-batches make one step, with a clipped gradient and a warm-up of the learning rate.

Planted: nothing
Verdict: compute
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)

MICRO_BATCHES = 4
inputs = torch.randn(4096, 96)
data = TensorDataset(inputs, inputs[:, :10].argmax(1))
loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
model = nn.Sequential(
    nn.Linear(96, 768), nn.GELU(), nn.Dropout(0.1), nn.Linear(768, 768), nn.GELU(), nn.Linear(768, 10)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))

for epoch in range(4):
    for number, (features, labels) in enumerate(loader, start=1):
        loss = nn.functional.cross_entropy(model(features), labels)
        (loss / MICRO_BATCHES).backward()
        if number % MICRO_BATCHES == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
