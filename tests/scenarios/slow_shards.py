"""Two workers stream shards over a line that is slower than the model.

Planted: two megabytes a second for each worker
Where:   loader = DataLoader(Shards(port), batch_size=BATCH, num_workers=2)
Verdict: data-loading
Rule:    data/slow-storage
Cores:   2
Cured:   --cured has a line of 500 megabytes a second
"""

import argparse
import socket
from collections.abc import Iterator

import torch
from store import slow_store
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

RECORD_BYTES = 12288
BATCH, BATCHES = 8, 100

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Shards(IterableDataset):
    """Records, in the order in which the line delivers them."""

    def __init__(self, port: int):
        self.port = port

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            for number in range(BATCH * BATCHES // 2):
                connection.sendall(f"{RECORD_BYTES}\n".encode())
                received = b""
                while len(received) < RECORD_BYTES:
                    received += connection.recv(RECORD_BYTES - len(received))
                pixels = torch.frombuffer(bytearray(received), dtype=torch.uint8)
                yield pixels.view(3, 64, 64).float() / 255, number % 10


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


model = nn.Sequential(
    block(3, 24), block(24, 48), block(48, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

with slow_store(megabytes_per_s=500.0 if args.cured else 2.0) as port:
    loader = DataLoader(Shards(port), batch_size=BATCH, num_workers=2)
    for number, (pixels, labels) in enumerate(loader):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pixels), labels)
        loss.backward()
        optimizer.step()
        if number % 20 == 0:
            print(f"batch {number}: loss {loss.item():.3f}")
