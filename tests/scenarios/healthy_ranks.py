"""A convolutional network on two ranks: much to compute, few gradients, and those are sent while it computes.

Planted: nothing
Verdict: compute
Cores:   2
Ranks:   2
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")

images = TensorDataset(torch.randn(2 * 16 * 60, 3, 32, 32), torch.randint(0, 10, (2 * 16 * 60,)))
loader = DataLoader(images, batch_size=16, sampler=DistributedSampler(images))
convolutions = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
for _ in range(4):
    convolutions += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
model = DistributedDataParallel(model, gradient_as_bucket_view=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

for image, label in loader:
    loss = nn.functional.cross_entropy(model(image), label)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
