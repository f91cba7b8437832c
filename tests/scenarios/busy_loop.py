"""After each step the loop draws two bars again and counts a score in Python.

Planted: a progress bar and a metric of the training batch in every step
Where:   progress.update(task, advance=1, description=f"loss {loss.item():.3f}", refresh=True)
Verdict: host-overhead
Rule:    host/progress-bar
Cured:   --cured draws and counts in every 50th step
"""

import argparse
import io

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

CLASSES, STEPS = 24, 900

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


def macro_f1_score(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean over classes of the harmonic mean of precision and recall."""
    pairs, scores = list(zip(logits.argmax(1).tolist(), labels.tolist(), strict=True)), []
    for number in range(CLASSES):
        hit = sum(guess == label == number for guess, label in pairs)
        wrong = sum((guess == number) != (label == number) for guess, label in pairs)
        scores.append(2 * hit / (2 * hit + wrong) if hit or wrong else 0.0)
    return sum(scores) / CLASSES


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
            score = macro_f1_score(logits.detach(), targets[chosen])
            progress.update(task, advance=1, description=f"loss {loss.item():.3f}", refresh=True)
print(f"loss {loss.item():.3f}, score {score:.2f}")
