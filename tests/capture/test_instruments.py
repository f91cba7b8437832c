"""What watches a training is seen, and what does not is not."""

from __future__ import annotations

import cProfile
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from profiler.capture.install import begin, end
from profiler.capture.instruments import instruments
from profiler.capture.session import CaptureConfig
from profiler.record.reader import of_kind, read_notes


@contextmanager
def traced() -> Iterator[None]:
    before = sys.gettrace()

    def trace(frame: Any, event: str, argument: Any) -> None:
        return None

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def profiled() -> Any:
    return cProfile.Profile()


@contextmanager
def allocations() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("watch", "name"),
    [
        (profiled, "cProfile"),
        (traced, __name__.split(".", maxsplit=1)[0]),
        (lambda: torch.autograd.detect_anomaly(check_nan=False), "anomaly detection"),
        (torch.profiler.profile, "torch.profiler"),
        (allocations, "tracemalloc"),
    ],
    ids=["cProfile", "a trace function", "anomaly", "torch's profiler", "tracemalloc"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_watches_this_thread_is_named(watch: Any, name: str) -> None:
    before = instruments()
    with watch():
        assert instruments() - before == {name}
    assert instruments() == before


def noted(folder: Path, on: range) -> list[str]:
    """What was found of a training that is profiled in these steps."""
    session = begin(CaptureConfig(folder, deep=False))
    profile = cProfile.Profile()
    try:
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(1, 31):
            if step == on.start:
                profile.enable()
            model(torch.randn(2, 4)).mean().backward()
            optimizer.step()
            if step == on.stop - 1:
                profile.disable()
        assert session.active
    finally:
        profile.disable()
        notes = read_notes(session.folder())[0]
        end(session)
    return next(note["value"] for note in of_kind(notes, "setting") if note["name"] == "instruments")


@pytest.mark.skipif(sys.getprofile() is not None, reason="something profiles these tests")
def test_what_stays_on_is_told_from_what_was_on_for_a_moment(tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "short").mkdir()
    assert "cProfile" in noted(tmp_path / "long", range(1, 40))
    assert "cProfile" not in noted(tmp_path / "short", range(1, 10))
