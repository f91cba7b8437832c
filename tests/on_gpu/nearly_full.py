"""A bank of old features leaves next to nothing of the device's memory.

Planted: a buffer of nine tenths of what is free
Verdict: compute | memory
Rule:    memory/near-capacity
Note:    yes
Twin:    compute | host-overhead
Cured:   --cured keeps a tenth of it
"""

import argparse

import torch
from parts import Gpt, gpt_loss

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)

model = Gpt(4096, 512, 4, 256).cuda()
free, _ = torch.cuda.mem_get_info()
model.register_buffer("bank", torch.empty(int(free * (0.5 if args.cured else 0.94)), dtype=torch.uint8, device="cuda"))
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
tokens = torch.randint(4096, (16, 256), device="cuda")
for _ in range(1000):
    loss = gpt_loss(model(tokens), tokens)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
