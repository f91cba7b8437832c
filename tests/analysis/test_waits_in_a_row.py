"""Idle time after waits of the host: several with no launch between them lose its lead together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trace_builder import TraceBuilder, training, usual_host

from profiler.analysis.trace.facts import facts_of
from profiler.record.trace.read import read_trace

RESULT = "Memcpy DtoH (Device -> Pageable)"


After = Callable[[TraceBuilder, float], None]  # what the host does right after the copy


def step_with(after: After) -> After:
    """40 ms of work launched at once; the host reads a result of it, and launches the rest 20 ms later."""

    def step(builder: TraceBuilder, start: float) -> None:
        usual_host(builder, start)
        builder.kernel(start + 2, 40, launched=start + 1.5)
        builder.copy(start + 42, 0.1, called=start + 2, call_ms=40.2, name=RESULT, size=4)
        after(builder, start + 42.2)
        builder.kernel(start + 62, 37, launched=start + 61.9)

    return step


def nothing(builder: TraceBuilder, at: float) -> None:
    """A copy alone."""


def waits(builder: TraceBuilder, at: float) -> None:
    """As torch does: the copy has waited for all of it, and the stream is synchronized in a few microseconds."""
    builder.call("cudaStreamSynchronize", at + 0.001, 0.004)


def launches(builder: TraceBuilder, at: float) -> None:
    """A launch between the two waits: what the copy lost is made up for by it."""
    builder.kernel(at + 0.01, 0.05, launched=at + 0.005)
    builder.call("cudaStreamSynchronize", at + 0.06, 0.004)


@pytest.mark.parametrize(("after", "sync"), [(nothing, 80.0), (waits, 80.0), (launches, 0.0)])
def test_a_copy_of_a_result_and_the_wait_for_its_stream_are_one(tmp_path: Path, after: After, sync: float) -> None:
    found = facts_of(read_trace(training(step_with(after)).write(tmp_path / "made.json"))).facts
    assert found.device is not None and found.device.idle_ms is not None
    between_steps = 7.0
    assert found.device.idle_ms["sync"] == pytest.approx(sync, abs=1)
    assert found.device.idle_ms["host"] == pytest.approx(80 - sync + between_steps, abs=2)
