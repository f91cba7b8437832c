"""A convolutional net in float32, its convolutions in TF32: half of the numbers' bits could be left out.

Planted: no autocast
Verdict: compute
Rule:    compute/mixed-precision
Note:    yes
Twin:    compute | host-overhead
Cured:   --cured computes under autocast in bfloat16
"""

import argparse

import torch
from parts import conv_net
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.backends.cudnn.conv.fp32_precision = "ieee"
model = conv_net(128, 6).cuda().to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
criterion = nn.CrossEntropyLoss()
images = torch.randn(128, 3, 96, 96, device="cuda").to(memory_format=torch.channels_last)
labels = torch.randint(100, (128,), device="cuda")
for _ in range(1500):
    with torch.autocast("cuda", torch.bfloat16, enabled=args.cured):
        loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
