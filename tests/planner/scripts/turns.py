"""Trainings of mlp.py's model in several sizes, in turns within one process; prints what each took as JSON.

A round has one short block of every size, so that whatever else the machine does falls on all alike. Compute is timed
in CPU time of the thread that trains, which waiting for a core does not lengthen; loading, which sleeps, by the wall
clock.
"""

import json
import sys
import time

import torch
from mlp import build
from torch import nn
from torch.utils.data import DataLoader, Dataset

ROUNDS, STEPS = int(sys.argv[1]), 3
SIZES = {  # samples, depth, width, micro-batches
    "batch 64": (64, 4, 768, 1),
    "batch 256": (256, 4, 768, 1),
    "batch 128": (128, 4, 768, 1),
    "again": (128, 4, 768, 1),
    "depth 8": (128, 8, 768, 1),
    "width 1024": (128, 4, 1024, 1),
    "4 of 32": (32, 4, 768, 4),
}
LOADED, LOAD_S, BATCHES, WARM = 32, 1.5e-3, 9, 3


class Sleeping(Dataset):
    def __len__(self):
        return LOADED * BATCHES

    def __getitem__(self, index):
        start = time.perf_counter()
        time.sleep(LOAD_S)
        return torch.tensor([time.perf_counter() - start])


class Training:
    """One size: its model and optimizer, and a step by stage."""

    def __init__(self, batch, depth, width, micro_batches):
        torch.manual_seed(0)
        self.model, self.micro_batches = build(depth, width), micro_batches
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.x, self.y = torch.rand(batch, width), torch.arange(batch) % 10
        self.loss_of = nn.CrossEntropyLoss()

    def step(self, spent):
        clock = time.thread_time
        for _ in range(self.micro_batches):
            start = clock()
            loss = self.loss_of(self.model(self.x), self.y) / self.micro_batches
            computed = clock()
            loss.backward()
            spent["backward"] += clock() - computed
            spent["forward"] += computed - start
        start = clock()
        self.optimizer.step()
        self.optimizer.zero_grad()
        spent["optimizer"] += clock() - start


def block(training):
    """Milliseconds of a step, by stage: the median of a few."""
    seen = []
    for _ in range(STEPS):
        spent = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
        training.step(spent)
        seen.append(spent)
    seen.sort(key=lambda spent: sum(spent.values()))
    return {stage: 1e3 * seconds for stage, seconds in seen[STEPS // 2].items()}


def load(workers):
    """Milliseconds from batch to batch after the first, and those that a worker spent on one."""
    arrived, worked = [], []
    for batch in DataLoader(Sleeping(), batch_size=LOADED, num_workers=workers, prefetch_factor=1):
        arrived.append(time.perf_counter())
        worked.append(float(batch.sum()))
    pace = (arrived[-1] - arrived[WARM - 1]) / (len(arrived) - WARM)
    return {"data_wait": 1e3 * pace, "batch": 1e3 * sum(worked) / len(worked)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainings = {name: Training(*size) for name, size in SIZES.items()}
    for training in trainings.values():
        block(training)
    rounds = []
    for _ in range(ROUNDS):
        seen = {name: block(training) for name, training in trainings.items()}
        seen |= {f"{workers} workers": load(workers) for workers in (1, 2)}
        rounds.append(seen)
    print(json.dumps(rounds))
