"""Each step makes an object that holds its outputs and itself: only collections of garbage, now and then, free them.

Planted: a reference cycle around the outputs of each step
Where:   scores = model(inputs[chosen])
Verdict: compute
Rule:    memory/reference-cycles
Note:    yes
Settings: memory/reference-cycles.least_mib = 1
Cured:   --cured keeps no outputs in it
"""

import argparse
import gc

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Step:
    """What happened in a step."""

    def __init__(self, scores: torch.Tensor | None) -> None:
        self.scores = scores
        self.describe = lambda: f"step with {self.scores is not None} scores"


model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 2048))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
inputs = torch.randn(4096, 128)
targets = inputs.argmax(1)

for number in range(300):
    chosen = torch.randint(len(inputs), (256,))
    optimizer.zero_grad()
    scores = model(inputs[chosen])
    loss = nn.functional.cross_entropy(scores, targets[chosen])
    loss.backward()
    optimizer.step()
    step = Step(None if args.cured else scores)
    if number % 10 == 9:
        step = None
        gc.collect(0)
print(f"loss {loss.item():.3f}")
