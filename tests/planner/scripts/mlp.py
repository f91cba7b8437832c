"""A plain training with every size a flag; one compute thread, so that cores left over go to workers."""

import argparse
import time

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int, default=4)
parser.add_argument("--width", type=int, default=512)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--micro-batches", type=int, default=1)
parser.add_argument("--autocast", action="store_true")
parser.add_argument("--load-ms", type=float, default=0.0)
arguments = parser.parse_known_args()[0]  # `turns.py`, which builds the same model, has arguments of its own
torch.manual_seed(0)
torch.set_num_threads(1)


class Rows(Dataset):
    def __len__(self):
        return arguments.steps * arguments.batch

    def __getitem__(self, index):
        if arguments.load_ms:
            time.sleep(arguments.load_ms / 1e3)
        return torch.full((arguments.width,), index % 7 / 7.0), index % 10


def build(depth, width):
    layers = [module for _ in range(depth) for module in (nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))]
    return nn.Sequential(*layers, nn.Linear(width, 10))


if __name__ == "__main__":
    model = build(arguments.depth, arguments.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()
    for index, (x, y) in enumerate(DataLoader(Rows(), batch_size=arguments.batch, num_workers=arguments.workers)):
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.autocast):
            loss = loss_of(model(x), y) / arguments.micro_batches
        loss.backward()
        if (index + 1) % arguments.micro_batches == 0:
            optimizer.step()
            optimizer.zero_grad()
