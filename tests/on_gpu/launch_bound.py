"""Sixteen short sequences keep the device busy for a fraction of what it takes to launch their kernels.

Planted: batches so small that launching takes the time
Verdict: host-overhead
Rule:    host/launch-bound
Twin:    compute | host-overhead
Cured:   --cured replays forward and backward as CUDA graphs
"""

import argparse

import torch
from parts import Gpt, gpt_loss

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)

model = Gpt(1024, 256, 4, 128).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
tokens = torch.randint(1024, (16, 128), device="cuda")
model = torch.cuda.make_graphed_callables(model, (tokens,)) if args.cured else model
for _ in range(4000):
    loss = gpt_loss(model(tokens), tokens)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
