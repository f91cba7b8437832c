"""A run that changes for long is looked at again; one that pauses, swings or has always been so is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from profiler.capture.behaviour import Pace

MS = 1_000_000


def looks(step_ms: Callable[[int], float], steps: int) -> tuple[int | None, int]:
    """The step at which the run counts as changed (None: never), and how often the clock was read."""
    times = [0]
    for number in range(steps):
        times.append(times[-1] + round(step_ms(number) * MS))
    now = 0
    read = 0

    def clock() -> int:
        nonlocal read
        read += 1
        return times[now]

    pace = Pace(clock)
    due = pace.look(0)
    for now in range(1, steps + 1):
        if now < due:
            continue
        due = pace.look(now)
        if pace.changed:
            return now, read
    return None, read


def test_a_run_that_gets_slower_for_long_has_changed() -> None:
    at, read = looks(lambda number: 10.0 if number < 3000 else 14.0, 6000)
    assert at is not None
    assert 3000 < at < 4500
    assert read < 40


def test_a_run_that_gets_faster_for_long_has_changed() -> None:
    assert looks(lambda number: 10.0 if number < 3000 else 7.0, 8000)[0] is not None


@pytest.mark.parametrize(
    "step_ms",
    [
        lambda number: 10.0,
        lambda number: 10.0 if number < 3000 else 11.5,
        lambda number: 10.0 + 6.0 * (number // 300 % 2),  # swings
        lambda number: 3000.0 if number % 1000 == 999 else 10.0,  # an evaluation now and then
        lambda number: 10.0 if not 3000 < number < 3500 else 20.0,  # for a short while
        lambda number: 2500.0,
    ],
    ids=["steady", "a little", "swings", "evaluates", "short", "long steps"],
)
def test_a_run_that_is_as_it_was_has_not(step_ms: Callable[[int], float]) -> None:
    assert looks(step_ms, 9000 if step_ms(0) < 100 else 60)[0] is None
