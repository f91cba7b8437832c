"""What recording adds before the training begins, and to the memory of its process.

The script imports torch, trains a few hundred steps and says when its first line after the import ran and how
much memory it held at its end. It is run plain and recorded in turn; differences are taken pair by pair, and,
as a control, between one plain run and the next.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.commands import last_line, prof

SCRIPT = """
import time
import torch
imported = time.time()
import json, resource
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
data = torch.utils.data.TensorDataset(torch.randn(12800, 64), torch.randint(8, (12800,)))
began = time.time()
while time.time() - began < SECONDS:
    for inputs, labels in torch.utils.data.DataLoader(data, batch_size=64):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
pages = {line.split(":")[0]: int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")}
print(json.dumps({"imported": imported, "rss_mb": pages["VmRSS"] / 1024}))
"""


@dataclass(frozen=True)
class Added:
    """Medians over pairs of runs."""

    startup_s: float
    startup_control_s: float  # between plain runs
    rss_mb: float
    rss_control_mb: float
    pairs: int


def run(pairs: int = 7, seconds: float = 7.0) -> Added:
    """Plain and recorded in turn. `seconds` lets the deep window and every sampler run before memory is read."""
    starts: list[tuple[float, float]] = []
    sizes: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "script.py"
        script.write_text(SCRIPT.replace("SECONDS", str(seconds)), "utf-8")
        for number in range(pairs):
            commands = ([sys.executable, str(script)], prof(folder, f"run-{number}", "--no-report", str(script)))
            measured = []
            for command in commands:
                began = time.time()
                said = last_line(command, folder)
                measured.append((said["imported"] - began, said["rss_mb"]))
            starts.append((measured[0][0], measured[1][0]))
            sizes.append((measured[0][1], measured[1][1]))
    return Added(*_compared(starts), *_compared(sizes), pairs)


def _compared(values: list[tuple[float, float]]) -> tuple[float, float]:
    plain = [value for value, _ in values]
    added = median(recorded - bare for bare, recorded in values)
    return added, median(abs(after - before) for before, after in pairwise(plain))
