"""Every step writes all its predictions as JSON.

Planted: json.dumps in each step
Where:   log.write(json.dumps({"step": step, "predictions": predictions.tolist()}) + "\\n")
Verdict: host-overhead
Rule:    host/logging
Live:    yes
Cured:   --cured logs every fiftieth step
"""

import argparse
import json
import tempfile

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 32))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
inputs = torch.randn(4096, 64)
targets = inputs[:, :32].abs()

with tempfile.TemporaryFile("w") as log:
    for step in range(400):
        chosen = torch.randint(len(inputs), (256,))
        optimizer.zero_grad()
        predictions = model(inputs[chosen])
        loss = nn.functional.mse_loss(predictions, targets[chosen])
        loss.backward()
        optimizer.step()
        if step % (50 if args.cured else 1) == 0:
            log.write(json.dumps({"step": step, "predictions": predictions.tolist()}) + "\n")
    print(f"loss {loss.item():.3f}")
