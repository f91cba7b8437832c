"""What closer looks at items, batches and worker processes found.

In:  notes of kinds `item`, `batch` and `worker`, and the loaders that feed the training.
Out: `ItemFacts`, `BatchContents`, `ProcessFacts`; None where nothing was looked at.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from profiler.analysis.facts import BatchContents, ItemFacts, ProcessFacts
from profiler.record.reader import of_kind

Note = Mapping[str, Any]
_OUR_THREADS = 1  # the sampler's, in each worker


def item_facts(notes: Sequence[dict[str, Any]], loaders: frozenset[int]) -> ItemFacts | None:
    """Each item of one epoch against the same item of the next one in which it was seen."""
    sums: dict[tuple[int, int], list[int]] = defaultdict(list)
    sizes: list[int] = []
    for note in _of(notes, "item", loaders):
        index, found, size = note.get("index"), note.get("sum"), note.get("bytes")
        if isinstance(index, int) and isinstance(found, int) and isinstance(size, int):
            sums[int(note["loader"]), index].append(found)
            sizes.append(size)
    pairs = [pair for seen in sums.values() for pair in itertools.pairwise(seen)]
    if not pairs:
        return None
    return ItemFacts(len(pairs), sum(first == second for first, second in pairs), mean(sizes))


def batch_contents(notes: Sequence[dict[str, Any]], loaders: frozenset[int]) -> BatchContents | None:
    """Means over the batches that were looked at."""
    seen = _of(notes, "batch", loaders)
    if not seen:
        return None
    arrays, sizes, objects = (mean(int(note.get(name) or 0) for note in seen) for name in _CONTENTS)
    timed = [note for note in seen if isinstance(note.get("unpickle_ns"), int)]
    if not timed:
        return BatchContents(arrays, sizes, objects)
    took_ms = mean(note["unpickle_ns"] for note in timed) / 1e6
    return BatchContents(arrays, sizes, objects, took_ms, mean(int(note["pickled_bytes"]) for note in timed))


_CONTENTS = ("arrays", "array_bytes", "objects")


def process_facts(notes: Sequence[dict[str, Any]], loaders: frozenset[int]) -> ProcessFacts | None:
    """Of each worker its first look and its last."""
    by_pid: dict[int, list[Note]] = defaultdict(list)
    for note in _of(notes, "worker", loaders):
        if isinstance(note.get("pid"), int):
            by_pid[note["pid"]].append(note)
    if not by_pid:
        return None
    last = [seen[-1] for seen in by_pid.values()]
    threads = max((int(note.get("threads") or 0) for note in last), default=0) - _OUR_THREADS
    cpu_ns = sum(int(note.get("cpu_ns") or 0) for note in last)
    own_ns = sum(int(note.get("thread_cpu_ns") or 0) for note in last)
    held = [_with_memory(seen) for seen in by_pid.values()]
    grown = [seen for seen in held if len(seen) > 1]
    return ProcessFacts(
        processes=len(by_pid),
        threads=threads if threads > 0 else None,
        other_cpu_share=max(0.0, 1 - own_ns / cpu_ns) if cpu_ns > 0 else None,
        cpu_ms=cpu_ns / 1e6 / made if (made := sum(int(note.get("batches") or 0) for note in last)) else None,
        private_bytes=sum(seen[-1]["private_bytes"] for seen in held if seen) if any(held) else None,
        private_growth_bytes=sum(seen[-1]["private_bytes"] - seen[0]["private_bytes"] for seen in grown)
        if grown
        else None,
        growth_batches=sum(seen[-1]["batches"] - seen[0]["batches"] for seen in grown) if grown else None,
    )


def _with_memory(seen: Iterable[Note]) -> list[Note]:
    return [
        note for note in seen if isinstance(note.get("private_bytes"), int) and isinstance(note.get("batches"), int)
    ]


def _of(notes: Sequence[dict[str, Any]], kind: str, loaders: frozenset[int]) -> list[dict[str, Any]]:
    """Notes of the training's loaders."""
    return [note for note in of_kind(notes, kind) if note.get("loader") in loaders]
