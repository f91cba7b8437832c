"""The model and its optimizer are saved after every step.

Planted: torch.save of 31 MB in each step
Where:   torch.save(state, Path(folder) / "last.pt")
Verdict: other
Rule:    run/checkpoint-dominates
Span:    checkpoint 0.25
Settings: run/checkpoint-dominates.min_run_s = 1
Cores:   2
Live:    yes
Cured:   --cured saves after the last step alone
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

inputs = torch.randn(4096, 256)
labels = inputs[:, :10].argmax(1)
model = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 10))
optimizer = torch.optim.AdamW(model.parameters(), fused=True)

with tempfile.TemporaryDirectory() as folder:
    for step in range(1, 141):
        chosen = torch.randint(len(inputs), (32,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        if step % (140 if args.cured else 1) == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, Path(folder) / "last.pt")
    print(f"loss {loss.item():.3f}")
