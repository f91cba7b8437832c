"""A GPT in full float32 on a device that could take TF32.

Planted: the precision of float32 products stands at "highest"
Verdict: compute
Rule:    compute/tf32-off
Also:    compute/mixed-precision
Cured:   --cured allows TF32
"""

import argparse

import torch
from parts import Gpt, gpt_loss

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
if args.cured:
    torch.set_float32_matmul_precision("high")

model = Gpt(4096, 768, 6, 256).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
tokens = torch.randint(4096, (16, 256), device="cuda")
for _ in range(1000):
    loss = gpt_loss(model(tokens), tokens)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
