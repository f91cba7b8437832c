"""Pictures are augmented on the training thread while the second core has nothing to do.

Planted: num_workers=0
Where:   loader = DataLoader(Augmented(), batch_size=8, shuffle=True, num_workers=1 if args.cured else 0)
Verdict: data-preprocessing
Rule:    data/too-few-workers
Cores:   2
Live:    yes
Cured:   --cured has num_workers=1
"""

import argparse
import random
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
random.seed(0)
torch.set_num_threads(1)

images = Path(find_spec("sklearn").submodule_search_locations[0]) / "datasets" / "images"
photos = [Image.open(images / name).convert("RGB").resize((120, 90)) for name in ("china.jpg", "flower.jpg")]


class Augmented(Dataset):
    """Turned, blurred and cropped versions of two photographs."""

    def __len__(self) -> int:
        return 480

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        label = index % 2
        picture = photos[label].rotate(random.uniform(-20, 20), resample=Image.Resampling.BICUBIC)
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0, 2)))
        left, top = random.randint(0, 56), random.randint(0, 26)
        picture = picture.crop((left, top, left + 64, top + 64))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255, label


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


model = nn.Sequential(
    block(3, 16),
    nn.MaxPool2d(2),
    block(16, 32),
    nn.MaxPool2d(2),
    block(32, 32),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 2),
)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
loader = DataLoader(Augmented(), batch_size=8, shuffle=True, num_workers=1 if args.cured else 0)

for epoch in range(3):
    for pictures, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
