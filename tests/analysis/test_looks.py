"""What looks at workers, items and kept graphs come to, from notes written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from profiler.analysis.kept import kept_graphs
from profiler.analysis.worker_looks import batch_contents, item_facts, process_facts

TRAINED = frozenset({1})


def item(index: int, found: int, loader: int = 1) -> dict[str, Any]:
    return {"kind": "item", "loader": loader, "index": index, "sum": found, "bytes": 100 + index}


def worker(pid: int, batches: int, **more: Any) -> dict[str, Any]:
    return {"kind": "worker", "loader": 1, "pid": pid, "batches": batches, "threads": 4, **more}


def test_each_item_is_compared_with_itself_in_the_next_epoch() -> None:
    notes = [item(0, 7), item(1, 8), item(0, 7), item(1, 9), item(0, 7), item(5, 1)]
    facts = item_facts(notes, TRAINED)
    assert facts is not None
    assert (facts.compared, facts.same) == (3, 2)  # item 0 twice, item 1 once, item 5 never
    assert facts.bytes == pytest.approx(101.17, abs=0.01)


def test_items_of_other_loaders_and_of_one_epoch_tell_nothing() -> None:
    assert item_facts([item(0, 7), item(1, 7)], TRAINED) is None
    assert item_facts([item(0, 7, loader=2), item(0, 7, loader=2)], TRAINED) is None
    assert item_facts([], TRAINED) is None


def test_the_time_to_unpickle_is_of_batches_that_were_timed() -> None:
    timed = {"unpickle_ns": 4_000_000, "pickled_bytes": 900}
    notes = [
        {"kind": "batch", "loader": 1, "arrays": 2, "array_bytes": 10, "objects": 600, **timed},
        {"kind": "batch", "loader": 1, "arrays": 4, "array_bytes": 30, "objects": 0},
    ]
    facts = batch_contents(notes, TRAINED)
    assert facts is not None
    assert (facts.arrays, facts.array_bytes, facts.objects) == (3, 20, 300)
    assert (facts.unpickle_ms, facts.pickled_bytes) == (4.0, 900)
    assert batch_contents(notes[1:], TRAINED).unpickle_ms is None  # type: ignore[union-attr]


def test_workers_are_added_up_between_their_first_and_their_last_look() -> None:
    notes = [
        worker(11, 2, cpu_ns=1, thread_cpu_ns=1, private_bytes=10_000),
        worker(12, 2, cpu_ns=1, thread_cpu_ns=1, private_bytes=20_000),
        worker(11, 32, cpu_ns=400_000_000, thread_cpu_ns=200_000_000, private_bytes=50_000),
        worker(12, 8, cpu_ns=100_000_000, thread_cpu_ns=50_000_000, private_bytes=21_000),
        worker(12, 32, cpu_ns=400_000_000, thread_cpu_ns=200_000_000),  # too dear to be asked again
    ]
    facts = process_facts(notes, TRAINED)
    assert facts is not None
    assert (facts.processes, facts.threads) == (2, 3)  # without our sampler's
    assert facts.other_cpu_share == pytest.approx(0.5)
    assert facts.cpu_ms == pytest.approx(800 / 64)
    assert (facts.private_growth_bytes, facts.growth_batches) == (41_000, 36)
    assert facts.private_bytes == 71_000


def test_a_worker_that_was_looked_at_once_grew_by_nothing_that_is_known() -> None:
    facts = process_facts([worker(11, 2, cpu_ns=0, thread_cpu_ns=0, private_bytes=5)], TRAINED)
    assert facts is not None
    assert (facts.private_growth_bytes, facts.other_cpu_share) == (None, None)


# which line keeps graphs

SOURCE = '''\
"""history.append(loss) is wrong."""
history, totals = [], {}
total = 0

def train():
    own = []
    for step in range(9):
        own.append(step)
        history.append(loss)  # history.append(
        totals[step] = loss
        total += loss
'''
LINES = SOURCE.splitlines(keepends=True)


def read(file: str, line: int) -> str:
    return LINES[line - 1] if 1 <= line <= len(LINES) else ""


def kept(what: str = "list", name: str | None = "history", **more: Any) -> dict[str, Any]:
    lines = [6, 7, 8, 9, 10, 11]
    return {"kind": "kept", "what": what, "count": 90, "name": name, "file": "/train.py", "lines": lines, **more}


@pytest.mark.parametrize(
    ("note", "line"),
    [
        (kept(), 9),
        (kept(name="totals"), 10),
        (kept("sum", "total"), 11),
        (kept("sum", None), 11),
        (kept(name="absent"), None),
        (kept(name=None), None),  # three lines add to something
        (kept(name=None, lines=[6, 7, 8]), 8),
        (kept(file=None), None),
    ],
)
def test_the_one_line_that_adds_to_it_is_found(note: dict[str, Any], line: int | None) -> None:
    [graph] = kept_graphs([note], read)
    assert (graph.site.line if graph.site else None) == line


def test_what_was_seen_twice_is_told_once_as_it_was_last() -> None:
    [graph] = kept_graphs([kept(), kept(count=400)], read)
    assert graph.count == 400
