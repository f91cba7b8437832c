"""A vocabulary of 50257 under autocast: matrices that tensor cores fetch badly.

Planted: a head and an embedding whose size 8 does not divide
Verdict: compute
Rule:    compute/tensor-core-sizes
Note:    yes
Cured:   --cured pads the vocabulary to 50304
"""

import argparse

import torch
from parts import Gpt, gpt_loss

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)

model = Gpt(50304 if args.cured else 50257, 512, 4, 256).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
tokens = torch.randint(50257, (32, 256), device="cuda")
for _ in range(1500):
    with torch.autocast("cuda", torch.bfloat16):
        loss = gpt_loss(model(tokens), tokens)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
