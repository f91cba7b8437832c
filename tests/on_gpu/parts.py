"""What the trainings on a GPU are built of: batches, a small GPT, and a convolutional net."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import IterableDataset


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Ready batches of random images, each handed out as a copy, as if it had just been read."""

    def __init__(self, count: int, shape: tuple[int, ...], *, as_bytes: bool = False, classes: int = 100) -> None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (2, *shape), dtype=torch.uint8, generator=generator)
        self.images = pixels if as_bytes else pixels.float().div_(255)
        self.labels = torch.randint(classes, (2, shape[0]), generator=generator)
        self.count = count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first, self.count, stride):
            yield self.images[index % 2].clone(), self.labels[index % 2].clone()


def conv_net(width: int = 64, blocks: int = 6, classes: int = 100) -> nn.Sequential:
    """Convolutions with batch norm, halving the image twice."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    for block in range(blocks):
        stride = 2 if block == 0 else 1
        layers += [nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Block(nn.Module):
    """A layer of a transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (batch, length, width), in and out."""
        batch, length, width = inputs.shape
        parts = self.qkv(self.first(inputs)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        inputs = inputs + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return inputs + self.down(functional.gelu(self.up(self.second(inputs))))


class Gpt(nn.Module):
    """A small GPT."""

    def __init__(self, vocabulary: int = 4096, width: int = 512, layers: int = 6, length: int = 256) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, width // 64) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, length, vocabulary)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places(places))))


def gpt_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of the next token."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class Watched(nn.Module):
    """Linear layers of a tenth of a millisecond each on a large GPU, and somebody who looks at each one's outputs."""

    def __init__(self, watch: Callable[[Tensor], None], width: int = 2048, layers: int = 12) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.watch = watch

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (rows, width), in and out."""
        for layer in self.layers:
            inputs = torch.relu(layer(inputs))
            self.watch(inputs)
        return inputs
