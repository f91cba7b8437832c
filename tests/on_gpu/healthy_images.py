"""Images as bytes from pinned memory, channels last, under autocast.

Planted: nothing
Verdict: compute
"""

import torch
from parts import Batches, conv_net
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
torch.backends.cudnn.benchmark = True
loader = DataLoader(
    Batches(600, (256, 3, 160, 160), as_bytes=True),
    batch_size=None,
    num_workers=4,
    pin_memory=True,
    persistent_workers=True,
)
model = conv_net(128, 14).cuda().to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True)
criterion = nn.CrossEntropyLoss()
for images, labels in loader:
    images = images.to("cuda", non_blocking=True, memory_format=torch.channels_last).float().div_(255)
    labels = labels.to("cuda", non_blocking=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
