"""After each step the loop draws two bars again.

Planted: a progress bar that is drawn in every step
Where:   progress.update(task, advance=1, description=f"loss {loss.item():.3f}", refresh=True)
Verdict: host-overhead
Rule:    host/progress-bar
Cured:   --cured draws in every 50th step
"""

import argparse
import io

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

CLASSES, STEPS = 24, 700

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(64, 192), nn.ReLU(), nn.Linear(192, 192), nn.ReLU(), nn.Linear(192, CLASSES))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
inputs = torch.randn(4096, 64)
targets = inputs[:, :CLASSES].argmax(1)

console = Console(file=io.StringIO(), force_terminal=True, width=100)
with Progress(console=console, auto_refresh=False) as progress:
    epochs = progress.add_task("epochs", total=10)
    task = progress.add_task("steps", total=STEPS)
    for step in range(STEPS):
        chosen = torch.randint(len(inputs), (192,))
        optimizer.zero_grad()
        logits = model(inputs[chosen])
        loss = nn.functional.cross_entropy(logits, targets[chosen])
        loss.backward()
        optimizer.step()
        if not args.cured or step % 50 == 0:
            progress.update(task, advance=1, description=f"loss {loss.item():.3f}", refresh=True)
print(f"loss {loss.item():.3f}")
