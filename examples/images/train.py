"""Tell eight photographs apart by small crops of them: a plain PyTorch training on JPEG files.

    python examples/images/train.py                        # slow: every epoch decodes every JPEG again
    python examples/images/train.py --preprocess cached    # cured: decoded and resized once

Each flag plants one bottleneck, or cures it; `examples/README.md` says which verdict to expect.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from photos import SOURCES, cut_photos
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

FOLDER = Path(__file__).parents[1] / "data" / "photos"
SIZE = 64  # side of the picture that the network sees
WIDTH = 16  # channels of the first layer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--preprocess", choices=["heavy", "cached"], default="heavy")
parser.add_argument("--workers", type=int, default=0, help="DataLoader worker processes")
parser.add_argument("--threads", type=int, default=1, help="threads of torch: one leaves a core to the loader")
parser.add_argument("--log-every-step", action="store_true", help="write histograms of all tensors each step")
parser.add_argument("--leak", action="store_true", help="keep every batch with its loss")
parser.add_argument("--seed", type=int, default=0)


def read_photo(path: Path) -> torch.Tensor:
    """One JPEG as a (3, SIZE, SIZE) uint8 tensor."""
    picture = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class Photos(Dataset):
    """JPEG files, decoded whenever they are asked for."""

    def __init__(self, files: list[tuple[Path, int]]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.files[index]
        return augment(read_photo(path)), label


class CachedPhotos(Photos):
    """The same files, decoded and resized once."""

    def __init__(self, files: list[tuple[Path, int]]):
        super().__init__(files)
        cache = FOLDER.with_name(f"photos-{SIZE}.pt")
        if not cache.exists():
            torch.save(torch.stack([read_photo(path) for path, _ in files]), cache)
        self.pictures = torch.load(cache)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return augment(self.pictures[index]), self.files[index][1]


def augment(picture: torch.Tensor) -> torch.Tensor:
    """Mirror half of the pictures, and bring the values to -1 … 1."""
    if torch.rand(()) < 0.5:
        picture = picture.flip(-1)
    return picture.float() / 127.5 - 1


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def network() -> nn.Sequential:
    return nn.Sequential(
        block(3, WIDTH),
        nn.MaxPool2d(2),
        block(WIDTH, 2 * WIDTH),
        nn.MaxPool2d(2),
        block(2 * WIDTH, 4 * WIDTH),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * WIDTH, len(SOURCES)),
    )


def histogram(tensor: torch.Tensor) -> list[int]:
    """How many values fall into each of 64 bins, counted in Python."""
    bins = [0] * 64
    for value in tensor.flatten().tolist():
        bins[min(63, max(0, int(32 + 320 * value)))] += 1
    return bins


def histograms(model: nn.Module) -> dict[str, list[list[int]]]:
    """What some people log every step: the histograms of all weights and gradients."""
    return {name: [histogram(p.data), histogram(p.grad)] for name, p in model.named_parameters()}


def main() -> None:
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    files = cut_photos(FOLDER)
    photos = CachedPhotos(files) if args.preprocess == "cached" else Photos(files)
    loader = DataLoader(
        photos,
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    kept, log = [], FOLDER.with_name("log.jsonl").open("w")

    for epoch in range(args.epochs):
        started, total, right, seen = time.perf_counter(), 0.0, 0, 0
        for pictures, labels in loader:
            optimizer.zero_grad()
            logits = model(pictures)
            loss = nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()

            total += loss.item() * len(labels)
            right += (logits.argmax(1) == labels).sum().item()
            seen += len(labels)
            if args.log_every_step:
                log.write(json.dumps({"loss": loss.item(), "tensors": histograms(model)}) + "\n")
                log.flush()
            if args.leak:
                kept.append((loss, pictures))
        seconds = time.perf_counter() - started
        print(f"epoch {epoch}: loss {total / seen:.3f}, {right / seen:.0%} right, {seconds:.1f} s")
    log.close()


if __name__ == "__main__":
    main()
