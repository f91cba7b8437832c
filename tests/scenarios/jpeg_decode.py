"""Photographs are decoded at full size, to be shrunk to 64 pixels, in every epoch.

Planted: JPEG files of 640 x 427 for a network that sees 64 x 64
Where:   picture = Image.open(io.BytesIO(self.files[index])).convert("RGB").resize((64, 64))
Verdict: data-preprocessing
Rule:    data/slow-decode
Cores:   2
Live:    yes
Cured:   --cured stores the files at the size that is used
"""

import argparse
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

images = Path(find_spec("sklearn").submodule_search_locations[0]) / "datasets" / "images"


class Photos(Dataset):
    """JPEG files in memory; each item gets a tint of its own."""

    def __init__(self) -> None:
        self.files = []
        for name in ("china.jpg", "flower.jpg"):
            file = io.BytesIO()
            photo = Image.open(images / name)
            photo.resize((64, 64) if args.cured else photo.size).save(file, "JPEG")
            self.files.append(file.getvalue())
        self.files *= 80

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = Image.open(io.BytesIO(self.files[index])).convert("RGB").resize((64, 64))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 + 0.1 * torch.randn(3, 1, 1), index % 2


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


model = nn.Sequential(
    block(3, 24), block(24, 48), block(48, 48), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 2)
)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
loader = DataLoader(Photos(), batch_size=8, shuffle=True, num_workers=2, persistent_workers=True)

for epoch in range(8):
    for pictures, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
