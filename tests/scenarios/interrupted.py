"""In one step of eleven the loop waits for a lock that another program holds.

Planted: waits of 40 ms
Verdict: host-overhead
Note:    what a mean says of such steps is little
Rule:    run/uneven-steps
Cores:   2
Live:    yes
Cured:   --cured takes no lock
"""

import argparse
import fcntl
import subprocess
import sys
import tempfile

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

OTHER = """
import fcntl, sys, time
with open(sys.argv[1], "w") as file:
    while sys.stdin.readline():
        fcntl.flock(file, fcntl.LOCK_EX)
        print(flush=True)
        time.sleep(0.04)
        fcntl.flock(file, fcntl.LOCK_UN)
"""
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs = torch.randn(8192, 64)
targets = inputs[:, :8].sin()

with tempfile.NamedTemporaryFile("w") as lock:
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", OTHER, lock.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for step in range(600):
        chosen = torch.randint(len(inputs), (192,))
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
        loss.backward()
        optimizer.step()
        if not args.cured and step % 11 == 0:
            print(file=other.stdin, flush=True)
            other.stdout.readline()
            fcntl.flock(lock, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_UN)
    other.communicate()
print(f"loss {loss.item():.3f}")
