"""Half-precision convolutions over images that lie channel by channel: cuDNN turns them around and back.

Planted: contiguous images and weights under autocast
Verdict: compute
Rule:    compute/channels-last
Note:    yes
Twin:    compute | host-overhead
Cured:   --cured lays model and images out channels last
"""

import argparse

import torch
from parts import conv_net
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
layout = torch.channels_last if args.cured else torch.contiguous_format
model = conv_net(128, 10).cuda().to(memory_format=layout)
optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
criterion = nn.CrossEntropyLoss()
images = torch.randn(128, 3, 128, 128, device="cuda").to(memory_format=layout)
labels = torch.randint(100, (128,), device="cuda")
for _ in range(1500):
    with torch.autocast("cuda", torch.bfloat16):
        loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
