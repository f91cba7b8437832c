"""What is noted of items, batches and workers of real DataLoaders."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from profiler.analysis.build import read_facts
from profiler.analysis.facts import WorkerFacts
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig
from profiler.capture.worker_looks import checksum, contents
from profiler.record.run_folder import write_run_json

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the data sets here live in this process"
)


class Items(Dataset[Any]):
    """Items that are the same in every epoch, or that have noise on them."""

    def __init__(self, noise: float = 0.0, words: int = 0) -> None:
        self.noise, self.words = noise, words

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        time.sleep(0.005)  # of batches of some length most are measured
        item = torch.full((16,), float(index)) + self.noise * torch.randn(16)
        return item, [f"word {number}" for number in range(self.words)] if self.words else index


def trained_on(dataset: Dataset[Any], folder: Path, epochs: int = 3, **arguments: Any) -> WorkerFacts:
    """The facts of the workers of a small training on a data set."""
    (folder / "processes").mkdir()
    write_run_json(folder, command=["python", "loop.py"], cores=2)
    session = begin(CaptureConfig(folder, deep=False))
    try:
        model = nn.Linear(16, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(dataset, batch_size=4, shuffle=True, **arguments)
        for _ in range(epochs):
            for inputs, _other in loader:
                model(inputs).mean().backward()
                optimizer.step()
        assert session.active
    finally:
        end(session)
    workers = read_facts(folder).workers
    assert workers is not None
    return workers


@pytest.mark.parametrize("arguments", [{}, {"num_workers": 1}], ids=["in the loop", "in new workers"])
def test_items_that_stay_the_same_are_seen_to(arguments: dict[str, Any], tmp_path: Path) -> None:
    items = trained_on(Items(), tmp_path, **arguments).item_facts
    assert items is not None
    assert items.compared >= 24 and items.same == items.compared  # at most 64: 32 of them, in three epochs
    assert items.bytes == pytest.approx(16 * 4 + 1.7, abs=0.1)


def test_items_with_noise_are_not_the_same(tmp_path: Path) -> None:
    items = trained_on(Items(noise=1e-3), tmp_path).item_facts
    assert items is not None
    assert items.compared >= 24 and items.same == 0


def test_one_epoch_compares_nothing(tmp_path: Path) -> None:
    assert trained_on(Items(), tmp_path, epochs=1).item_facts is None


def test_what_a_batch_is_made_of_and_how_long_it_takes_to_unpickle(tmp_path: Path) -> None:
    made_of = trained_on(Items(words=100), tmp_path, collate_fn=_as_they_come).contents
    assert made_of is not None
    assert (made_of.arrays, made_of.array_bytes, made_of.objects) == (1, 4 * 16 * 4, 400)
    assert made_of.unpickle_ms is not None
    assert made_of.unpickle_ms > 0


def _as_they_come(items: list[Any]) -> tuple[torch.Tensor, list[Any]]:
    return torch.stack([item for item, _ in items]), [words for _, words in items]


def test_workers_are_looked_at_by_themselves(tmp_path: Path) -> None:
    seen = trained_on(Items(), tmp_path, epochs=5, num_workers=1, persistent_workers=True).process_facts
    assert seen is not None
    assert seen.processes == 1
    assert seen.growth_batches is not None
    assert seen.growth_batches >= 20  # between the second and the 32nd
    assert seen.private_bytes is not None
    assert seen.private_bytes > 1 << 20


def test_the_loop_itself_is_no_worker(tmp_path: Path) -> None:
    assert trained_on(Items(), tmp_path).process_facts is None


class Broken(list):  # type: ignore[type-arg]
    """A batch that can't be walked through."""

    def __iter__(self) -> Any:
        raise RuntimeError("not now")


def test_a_users_type_that_raises_when_it_is_looked_at_does_no_harm(tmp_path: Path) -> None:
    class Odd(Items):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
            return super().__getitem__(index)[0], Broken([index])

    workers = trained_on(Odd(), tmp_path, collate_fn=_as_they_come)
    assert workers.item_facts is None
    assert workers.contents is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.arange(100_000), torch.arange(100_000).flip(0)),
        (torch.zeros(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)),
        (np.arange(5.0), np.arange(5.0) + 1),
        ({"text": "a", "number": 1}, {"text": "b", "number": 1}),
        ([1, (2, 3)], [1, (2, 4)]),
        (torch.empty(0), torch.zeros(1)),
        (torch.tensor(1 + 2j), torch.tensor(1 + 3j)),
    ],
)
def test_a_checksum_tells_values_apart(first: Any, second: Any) -> None:
    assert checksum(first) == checksum(first) is not None
    assert checksum(first) != checksum(second)


def test_what_is_no_value_has_no_checksum() -> None:
    assert checksum(object()) is None
    assert checksum(torch.eye(3).to_sparse()) is None
    assert checksum(np.array([object()])) is None


def test_looking_leaves_values_and_random_numbers_alone() -> None:
    item = torch.arange(20_000).reshape(100, 200).t()
    before, state = item.clone(), torch.get_rng_state()
    checksum(item)
    contents([item, {"a": [1, "b", None]}])
    assert torch.equal(item, before)
    assert torch.equal(torch.get_rng_state(), state)
