"""The batch doubles until the device has no room for it; the script goes on with the last that fitted.

Planted: a batch too large for the device
Verdict: memory
Rule:    memory/out-of-memory
Cured:   --cured stops before
"""

import argparse

import torch
from parts import Gpt, gpt_loss

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.cuda.set_per_process_memory_fraction(0.1)

model = Gpt(32000, 512, 4, 512).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
batch = 4
for step in range(200):
    if step and step % 30 == 0 and not (args.cured and batch >= 8):
        batch *= 2
    tokens = torch.randint(32000, (batch, 512), device="cuda")
    try:
        loss = gpt_loss(model(tokens), tokens)
        loss.backward()
    except torch.cuda.OutOfMemoryError:
        batch //= 4
        optimizer.zero_grad()
        continue
    optimizer.step()
    optimizer.zero_grad()
