"""The allocator's cache is emptied in every step.

Planted: torch.cuda.empty_cache() in the loop
Where:   torch.cuda.empty_cache()
Verdict: synchronization
Rule:    sync/empty-cache
Twin:    compute | host-overhead
Cured:   --cured leaves it out
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

for _ in range(800):
    loss = gpt_loss(model(tokens), tokens)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if not args.cured:
        torch.cuda.empty_cache()
