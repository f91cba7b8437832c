"""The whole validation set is evaluated after every tenth step.

Planted: an evaluation that takes longer than the steps between two of them
Verdict: other
Rule:    run/evaluation-dominates
Span:    evaluation 0.3
Settings: run/evaluation-dominates.min_run_s = 1, run/evaluation-dominates.warn = 0.3
Live:    yes
Cured:   --cured evaluates after every 200th step
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

inputs = torch.randn(24576, 64)
labels = inputs[:, :10].argmax(1)
train, validate = slice(0, 8192), slice(8192, None)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


@torch.no_grad()
def evaluate() -> float:
    model.eval()
    right = sum(
        (model(inputs[validate][start : start + 128]).argmax(1) == labels[validate][start : start + 128]).sum()
        for start in range(0, 16384, 128)
    )
    model.train()
    return right.item() / 16384


for step in range(1, 201):
    chosen = torch.randint(8192, (128,))
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs[train][chosen]), labels[train][chosen])
    loss.backward()
    optimizer.step()
    if step % (200 if args.cured else 10) == 0:
        print(f"step {step}: {evaluate():.1%} right")
