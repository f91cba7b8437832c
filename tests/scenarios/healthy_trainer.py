"""A trainer of one's own: callbacks, logging and a checkpoint now and then, an evaluation at the end of each epoch.

Planted: nothing
Verdict: compute
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    """Fits a model, and calls whoever wants to know."""

    def __init__(self, model: nn.Module, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        self.callbacks: list[Callable[[int, torch.Tensor], None]] = [self.log, self.save]
        self.step = 0

    def log(self, step: int, loss: torch.Tensor) -> None:
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}")

    def save(self, step: int, loss: torch.Tensor) -> None:
        if step % 200 == 0:
            torch.save(self.model.state_dict(), self.folder / "last.pt")

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.model(inputs), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def evaluate(self, loader: DataLoader) -> float:
        self.model.eval()
        right = sum(int((self.model(inputs).argmax(1) == labels).sum()) for inputs, labels in loader)
        self.model.train()
        return right / len(loader.dataset)

    def fit(self, train: DataLoader, test: DataLoader, epochs: int) -> None:
        for epoch in range(epochs):
            for batch in train:
                self.step += 1
                loss = self.training_step(batch)
                for callback in self.callbacks:
                    callback(self.step, loss)
            print(f"epoch {epoch}: {self.evaluate(test):.0%} right")


torch.manual_seed(0)
torch.set_num_threads(1)
pictures = torch.randn(1536, 3, 24, 24)
labels = pictures.mean((2, 3)).argmax(1)
network = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3),
)  # fmt: skip
with tempfile.TemporaryDirectory() as folder:
    Trainer(network, Path(folder)).fit(
        DataLoader(TensorDataset(pictures[:1280], labels[:1280]), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(pictures[1280:], labels[1280:]), batch_size=64),
        epochs=6,
    )
