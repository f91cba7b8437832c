"""Every step's logits stay in a list on the device.

Planted: a list of detached logits that only grows
Verdict: compute | host-overhead
Rule:    memory/growth
Twin:    compute | host-overhead
Cured:   --cured keeps none

What is kept carries no graph: only growing memory tells.
"""

import argparse

import torch
from parts import Gpt, gpt_loss

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)

model = Gpt(4096, 512, 4, 256).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
tokens = torch.randint(4096, (16, 256), device="cuda")
kept = []
for _ in range(1000):
    logits = model(tokens)
    loss = gpt_loss(logits, tokens)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if not args.cured:
        kept.append(logits.detach())
