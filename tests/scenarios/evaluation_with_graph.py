"""The validation set is evaluated as if there were a backward pass to come.

Planted: an evaluation with gradients switched on
Verdict: compute
Note:    the evaluations are short here
Rule:    memory/evaluation-graph
Cured:   --cured evaluates in inference mode
"""

import argparse
from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(64, 384), nn.ReLU(), nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(12288, 64)
labels = inputs[:, :8].argmax(1)
validation = DataLoader(TensorDataset(inputs[:4096], labels[:4096]), batch_size=256)


def evaluate() -> float:
    """The share of the validation set that is right."""
    model.eval()
    right = 0
    with torch.inference_mode() if args.cured else nullcontext():
        for batch, answers in validation:
            right += int((model(batch).argmax(1) == answers).sum())
    model.train()
    return right / len(validation.dataset)


for epoch in range(6):
    for chosen in torch.randperm(8192).add(4096).split(128):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: {evaluate():.0%} right")
