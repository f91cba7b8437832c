"""All cores denoise the same pictures again in every epoch.

Planted: a median filter that gives the same result each time
Where:   loader = DataLoader(Denoised(), batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)
Verdict: data-preprocessing
Rule:    data/repeated-preprocessing
Cores:   2
Live:    yes
Cured:   --cured filters each picture once, before the training
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import nn
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

images = Path(find_spec("sklearn").submodule_search_locations[0]) / "datasets" / "images"
photos = [Image.open(images / name).convert("RGB") for name in ("china.jpg", "flower.jpg")]


def denoise(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.MedianFilter(7))


class Denoised(Dataset):
    """Crops of two photographs, free of noise."""

    def __init__(self) -> None:
        self.kept = [self.crop(index) for index in range(len(self))] if args.cured else None

    def __len__(self) -> int:
        return 320

    def crop(self, index: int) -> torch.Tensor:
        left, top = 7 * index % 500, 5 * index % 300
        picture = denoise(photos[index % 2].crop((left, top, left + 64, top + 64)))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.kept[index] if self.kept else self.crop(index), index % 2


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


model = nn.Sequential(
    block(3, 24), block(24, 48), block(48, 48), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 2)
)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
loader = DataLoader(Denoised(), batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)

for epoch in range(4):
    for pictures, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
