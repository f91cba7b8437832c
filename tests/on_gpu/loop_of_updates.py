"""AdamW updates a deep model's parameters one tensor at a time.

Planted: foreach=False
Where:   optimizer.step()
Verdict: optimizer | host-overhead
Rule:    optimizer/many-launches
Twin:    host-overhead | compute
Cured:   --cured updates them in one fused launch
"""

import argparse

import torch
from parts import Gpt, gpt_loss

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)

model = Gpt(1024, 256, 12, 128).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=args.cured, foreach=False)
tokens = torch.randint(1024, (16, 128), device="cuda")
for _ in range(600):
    loss = gpt_loss(model(tokens), tokens)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
