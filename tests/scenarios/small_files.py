"""Each item is put together from 32 small files, one for each sensor.

Planted: a file of 256 bytes for each sensor of each item
Where:   files = [(self.folder / f"{index}-{sensor}.bin").read_bytes() for sensor in SENSORS]
Verdict: data-loading
Rule:    data/many-small-files
Cores:   2
Live:    yes
Cured:   --cured maps one file
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

ITEMS, SENSORS, LENGTH = 480, range(32), 64

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


class Recordings(Dataset):
    """What 32 sensors saw, and whether it was loud; noise is added anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        whole = np.random.default_rng(0).normal(size=(ITEMS, len(SENSORS), LENGTH)).astype(np.float32)
        if args.cured:
            np.save(folder / "all.npy", whole)
            self.whole = np.load(folder / "all.npy", mmap_mode="r")
        else:
            for index in range(ITEMS):
                for sensor in SENSORS:
                    (folder / f"{index}-{sensor}.bin").write_bytes(whole[index, sensor].tobytes())

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if args.cured:
            rows = self.whole[index]
        else:
            files = [(self.folder / f"{index}-{sensor}.bin").read_bytes() for sensor in SENSORS]
            rows = [np.frombuffer(file, np.float32) for file in files]
        recording = torch.from_numpy(np.stack(rows))
        return recording + 0.1 * torch.randn_like(recording), int(recording.abs().mean() > 0.798)


model = nn.Sequential(
    nn.Conv1d(32, 64, 5, padding=2), nn.ReLU(), nn.Conv1d(64, 64, 5, padding=2), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
    nn.Linear(64, 2),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
with tempfile.TemporaryDirectory() as folder:
    loader = DataLoader(Recordings(Path(folder)), batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in range(3):
        for recordings, loud in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(recordings), loud)
            loss.backward()
            optimizer.step()
    print(f"loss {loss.item():.3f}")
