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
parser.add_argument("--load-ms", type=float, default=0.0)
arguments = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Rows(Dataset):
    def __len__(self):
        return arguments.steps * arguments.batch

    def __getitem__(self, index):
        if arguments.load_ms:
            time.sleep(arguments.load_ms / 1e3)
        return torch.full((arguments.width,), index % 7 / 7.0), index % 10


if __name__ == "__main__":
    width = arguments.width
    layers = [
        module for _ in range(arguments.depth) for module in (nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
    ]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()
    for x, y in DataLoader(Rows(), batch_size=arguments.batch, num_workers=arguments.workers):
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
