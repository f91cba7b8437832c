"""A GPT in bfloat16 with fused attention and a fused optimizer, large enough for the device.

Planted: nothing
Verdict: compute
"""

import torch
from parts import Gpt, gpt_loss

torch.manual_seed(0)
torch.set_float32_matmul_precision("high")
model = Gpt(32768, 1024, 12, 1024).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
data = torch.randint(32768, (64, 16, 1024)).pin_memory()
for step in range(300):
    tokens = data[step % 64].to("cuda", non_blocking=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = gpt_loss(model(tokens), tokens)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step % 50 == 0:
        print(loss.item())
