"""Counts of what was sent."""

from __future__ import annotations

from profiler.capture.traffic import CALLS, EVERY, SHORTEST, TIMES, UNKNOWN_NS, Row, took


def counted(calls: int) -> Row:
    """A row after so many calls, of which each took its own number of ns."""
    row: Row = [0, 0, 0, UNKNOWN_NS, 0, [], 1]
    for number in range(1, calls + 1):
        row[CALLS] += 1
        took(row, number)
    return row


def test_times_of_calls_are_kept_evenly_over_the_run_and_stay_few() -> None:
    for calls in (1, 63, 64, 65, 1000, 100_000):
        row = counted(calls)
        every = row[EVERY]
        assert row[TIMES] == list(range(every, calls + 1, every))
        assert len(row[TIMES]) < 64 and (calls < 64 or len(row[TIMES]) >= 31)
        assert row[SHORTEST] == 1


def test_ranks_with_other_numbers_of_calls_have_kept_calls_in_common() -> None:
    assert set(counted(70)[TIMES]) >= {number for number in counted(500)[TIMES] if number <= 70} != set()
