"""Every sample is fetched from a store across the network, one round trip each, on the training thread.

Planted: a round trip of a millisecond for each of a batch's samples
Where:   loader = DataLoader(Remote(port), batch_size=BATCH, shuffle=True)
Verdict: data-loading
Rule:    data/slow-storage
Live:    yes
Cured:   --cured fetches the samples once, before the training
"""

import argparse
import socket

import torch
from store import slow_store
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES, BATCH, EPOCHS = 240, 12, 6
SAMPLE_BYTES = 1024

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Remote(Dataset):
    """Samples as bytes in a store."""

    def __init__(self, port: int):
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.kept = [self.fetch() for _ in range(SAMPLES)] if args.cured else None

    def fetch(self) -> bytes:
        connection = self.connection
        connection.sendall(f"{SAMPLE_BYTES}\n".encode())
        received = b""
        while len(received) < SAMPLE_BYTES:
            received += connection.recv(SAMPLE_BYTES)
        return received

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        sample = self.kept[index] if self.kept else self.fetch()
        return torch.frombuffer(bytearray(sample), dtype=torch.uint8).float(), index % 10


model = nn.Sequential(nn.Linear(SAMPLE_BYTES, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

with slow_store(latency_ms=1.0) as port:
    loader = DataLoader(Remote(port), batch_size=BATCH, shuffle=True)
    for epoch in range(EPOCHS):
        for samples, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(samples), labels)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
