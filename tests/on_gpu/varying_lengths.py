"""Batches of ever other lengths, for which cuDNN plans its attention anew.

Planted: lengths that vary from batch to batch, so that
         nearly each is new
Verdict: host-overhead
Rule:    compute/changing-shapes
Twin:    compute | host-overhead
Cured:   --cured pads all to one length
"""

import argparse
import random

import torch
from parts import Gpt, gpt_loss

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
random.seed(0)

model = Gpt(32000, 512, 6, 1024).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
for _ in range(600):
    length = 1024 if args.cured else random.randrange(64, 1025)
    tokens = torch.randint(32000, (16, length), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = gpt_loss(model(tokens), tokens)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
