"""Batches of 14 MB go to the device from memory that the system may move.

Planted: a DataLoader without pin_memory, copied with a blocking .to()
Where:   loader = DataLoader(Batches(3000, (128, 3, 96, 96)), batch_size=None, num_workers=4, pin_memory=args.cured)
Verdict: host-to-device
Rule:    transfer/pageable-memory
Twin:    compute | host-to-device | host-overhead | data-preprocessing | data-loading
Cured:   --cured pins the batches and copies without blocking
"""

import argparse

import torch
from parts import Batches, conv_net
from torch import nn
from torch.utils.data import DataLoader

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)

loader = DataLoader(Batches(3000, (128, 3, 96, 96)), batch_size=None, num_workers=4, pin_memory=args.cured)
model = conv_net(32, 3).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01)
criterion = nn.CrossEntropyLoss()
for images, labels in loader:
    images = images.to("cuda", non_blocking=args.cured)
    labels = labels.to("cuda", non_blocking=args.cured)
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
