"""The user's own ranges around taking a batch, where torch's own marks are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from trace_builder import TraceBuilder, training

from profiler.analysis.facts import Facts
from profiler.analysis.trace.facts import facts_of
from profiler.analysis.trace.words import users_batch
from profiler.record.trace.read import read_trace
from profiler.rules.base import Bottleneck
from profiler.rules.catalogue import judge

TORCH = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"


def step(builder: TraceBuilder, start: float) -> None:
    """A batch 0-60, forward 60-70, backward 70-90, update 90-95; the device works from 66 on."""
    for number in range(10):
        builder.op("aten::linear", start + 60 + number, 0.9)
    builder.backward(start + 70, 20)
    builder.kernel(start + 66, 33, launched=start + 65)
    builder.mark("Optimizer.step#SGD.step", start + 90, 5)


def read(builder: TraceBuilder, tmp_path: Path) -> Facts:
    return facts_of(read_trace(builder.write(tmp_path / "made.json"))).facts


def stages(found: Facts) -> dict[str, float]:
    return {name: round(stage.mean_ms) for name, stage in found.stages.items() if stage.mean_ms > 0.5}


@pytest.mark.parametrize("name", ["get_batch", "dataloader", "data_loading", "## data loading ##", "Load Data"])
def test_a_batch_is_taken_in_a_range_that_says_so(tmp_path: Path, name: str) -> None:
    def loop(builder: TraceBuilder, start: float) -> None:
        builder.mark(name, start, 60)
        step(builder, start)

    found = read(training(loop), tmp_path)
    assert stages(found) == {"data_wait": 60, "forward": 10, "backward": 20, "optimizer": 5, "other": 5}
    assert found.trace is not None and found.trace.loaded_by is None
    assert judge(found).verdict.bottleneck is Bottleneck.DATA_LOADING


def test_a_batch_that_is_taken_ahead_is_no_forward(tmp_path: Path) -> None:
    def loop(builder: TraceBuilder, start: float) -> None:
        step(builder, start)
        builder.op("aten::linear", start, 60)
        builder.mark("get_batch", start + 64, 6)

    found = read(training(loop), tmp_path)
    assert stages(found) == {"data_wait": 6, "forward": 64, "backward": 20, "optimizer": 5, "other": 5}


@pytest.mark.parametrize(
    ("name", "begin", "length"),
    [
        ("prepare", 0, 60),  # may be anything
        ("dataloader", 0, 98),  # around all of the step
        ("dataloader", 75, 5),  # within the backward pass
    ],
)
def test_other_ranges_are_none(tmp_path: Path, name: str, begin: float, length: float) -> None:
    def loop(builder: TraceBuilder, start: float) -> None:
        builder.mark(name, start + begin, length)
        step(builder, start)

    assert "data_wait" not in stages(read(training(loop), tmp_path))


def test_torchs_own_marks_come_first(tmp_path: Path) -> None:
    def loop(builder: TraceBuilder, start: float) -> None:
        builder.mark("get_batch", start, 60)
        builder.mark(TORCH, start, 20)
        step(builder, start)

    found = read(training(loop), tmp_path)
    assert stages(found)["data_wait"] == 20
    assert found.trace is not None and found.trace.loaded_by == "training thread"


@pytest.mark.parametrize("name", ["data", "update_data_stats", "get_batch_norm", "aten::batch_norm", "dataloader_init"])
def test_names_that_may_mean_something_else(name: str) -> None:
    assert not users_batch(name)
