"""While a batch is measured, a closer look at what a DataLoader makes and at the process that makes it.

Out: notes. `item`: a checksum of one of the first items of the data set, so that two epochs can be compared;
`batch`: what one of the first batches is made of; `worker`: threads, CPU time and private memory of a worker after
2, 4, 8, … batches.

Items are only looked at that the loader has asked for anyway; nothing random is drawn and nothing is kept.
"""

from __future__ import annotations

import os
import pickle
import time
import zlib
from collections import UserDict
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from .session import Session

FIRST_ITEMS = 64  # of the data set: those are compared
EPOCHS = 4  # of a loader: in later ones items and batches are not looked at
_MOST_ITEM_NOTES = 4 * FIRST_ITEMS
_BATCHES_SEEN = 2
_SAMPLED = 8192  # values of an array that its checksum is made of, evenly over it
_MOST_PARTS = 20_000
_WORTH_PICKLING = 200  # objects
_UNPICKLE_TIMES = 3
_DEEPEST = 8
_FIRST_LOOK, _NEXT_LOOK = 2, 2  # a worker is looked at after its second batch, then after twice as many
_DEAREST_LOOK_NS = 200_000_000  # a kernel that takes longer to sum up a process's pages is not asked again
_Found = TypeVar("_Found")
_SCALARS = (bool, int, float, complex, str, bytes, type(None))


class Looks:
    """The looks at one loader from one process."""

    def __init__(self, session: Session, loader: int, epoch: int, worker: bool) -> None:
        self._session = session
        self._loader = loader
        self._items_left = _MOST_ITEM_NOTES if epoch <= EPOCHS else 0
        self._contents_left = _BATCHES_SEEN if epoch <= 1 else 0
        self._worker = worker
        self.batches = 0  # made so far, with those that were not measured
        self._due = _FIRST_LOOK if worker else 0
        self._memory = True
        self._cpu_ns = (0, 0)
        self.indices: Any = None  # of the batch under way

    def before(self, indices: Any) -> None:
        """A batch of these items begins."""
        self.indices = indices
        if self._due:
            self.batches += 1
            if self.batches == 1:
                self._cpu_ns = (time.process_time_ns(), time.thread_time_ns())
            elif self.batches > self._due:
                while self.batches > self._due:
                    self._due *= _NEXT_LOOK
                self._look_at_worker()

    def items(self, data: Any) -> None:
        """These are the batch's items, before they are put together."""
        if not self._items_left or type(self.indices) is not list or type(data) is not list:
            return
        if len(data) != len(self.indices):
            return
        try:
            if min(self.indices) >= FIRST_ITEMS:
                return
        except (TypeError, ValueError):  # keys that are no numbers; an empty batch
            self._items_left = 0
            return
        for index, item in zip(self.indices, data, strict=True):
            if type(index) is int and 0 <= index < FIRST_ITEMS and self._items_left:
                self._items_left -= 1
                found = _asked(checksum, item)
                if found is not None:
                    self._session.note("item", loader=self._loader, index=index, sum=found[0], bytes=found[1])

    def batch(self, batch: Any) -> None:
        """This is what they were put together to."""
        if not self._contents_left:
            return
        self._contents_left -= 1
        found = _asked(contents, batch)
        if found is not None:
            self._session.note("batch", loader=self._loader, **found)

    def _look_at_worker(self) -> None:
        process_ns, thread_ns = time.process_time_ns(), time.thread_time_ns()
        note: dict[str, Any] = {
            "loader": self._loader,
            "pid": os.getpid(),
            "batches": self.batches - 1,
            "threads": _threads(),
            "cpu_ns": process_ns - self._cpu_ns[0],
            "thread_cpu_ns": thread_ns - self._cpu_ns[1],
        }
        if self._memory:
            began_ns = time.thread_time_ns()
            note["private_bytes"] = private_bytes()
            self._memory = time.thread_time_ns() - began_ns < _DEAREST_LOOK_NS
        self._session.note("worker", **note)


def _asked(look: Callable[[Any], _Found | None], value: Any) -> _Found | None:
    """What a look finds; None where the user's own types answer with an error."""
    try:
        return look(value)
    except Exception:
        return None


def checksum(item: Any) -> tuple[int, int] | None:
    """A checksum of an item's values and its size in bytes; None for what is neither numbers, text nor arrays."""
    total = size = 0
    for part in _parts(item):
        if isinstance(part, torch.Tensor):
            if part.device.type != "cpu" or part.layout is not torch.strided or part.is_conj() or part.is_neg():
                return None
            flat = part.detach().reshape(-1)
            flat = flat[:: max(1, flat.numel() // _SAMPLED)].contiguous()
            total = zlib.crc32(flat.view(torch.uint8).numpy() if flat.numel() else b"", total)
            size += part.numel() * part.element_size()
        elif isinstance(part, (np.ndarray, np.generic)) and part.dtype != object:
            values = np.asarray(part).reshape(-1)
            total = zlib.crc32(np.ascontiguousarray(values[:: max(1, values.size // _SAMPLED)]).tobytes(), total)
            size += part.nbytes
        elif isinstance(part, _SCALARS):
            text = repr(part).encode()
            total = zlib.crc32(text, total)
            size += len(text)
        else:
            return None
    return total, size


def contents(batch: Any) -> dict[str, int]:
    """How many arrays a batch holds, of how many bytes, how many other objects, and how long those take to unpickle.

    What is pickled for that is a copy with numbers and text alone: no code of the user's runs.
    """
    arrays = size = objects = 0
    for part in _parts(batch):
        if isinstance(part, (torch.Tensor, np.ndarray)):
            arrays += 1
            size += part.nbytes if isinstance(part, np.ndarray) else part.numel() * part.element_size()
        else:
            objects += 1
    found = {"arrays": arrays, "array_bytes": size, "objects": objects}
    if objects >= _WORTH_PICKLING:
        pickled = pickle.dumps(_plain(batch, _DEEPEST), pickle.HIGHEST_PROTOCOL)
        took_ns = []
        for _ in range(_UNPICKLE_TIMES):
            began_ns = time.perf_counter_ns()
            pickle.loads(pickled)
            took_ns.append(time.perf_counter_ns() - began_ns)
        found |= {"unpickle_ns": min(took_ns), "pickled_bytes": len(pickled)}
    return found


def _plain(value: Any, depth: int) -> Any:
    """The lists, dicts, numbers and text of a value; None for all else."""
    if depth == 0:
        return None
    if isinstance(value, (dict, UserDict)):
        return {str(key): _plain(part, depth - 1) for key, part in islice(value.items(), _MOST_PARTS)}
    if isinstance(value, (list, tuple)):
        return [_plain(part, depth - 1) for part in islice(value, _MOST_PARTS)]
    return value if type(value) in _SCALARS else None


def _parts(value: Any) -> Iterable[Any]:
    """The leaves of nested lists, tuples and dicts, at most so many."""
    waiting: list[Any] = [value]
    seen = 0
    while waiting and seen < _MOST_PARTS:
        part = waiting.pop()
        if isinstance(part, (dict, UserDict)):
            waiting.extend(islice(part.values(), _MOST_PARTS))
        elif isinstance(part, (list, tuple)):
            waiting.extend(islice(part, _MOST_PARTS))
        else:
            seen += 1
            yield part


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 -- names only
    except OSError:
        return 0


def private_bytes() -> int | None:
    """Memory that this process shares with no other; None where the kernel does not say."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except (OSError, ValueError):
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))]
    return sum(sizes) * 1024 if sizes else None
