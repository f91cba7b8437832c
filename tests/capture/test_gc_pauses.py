"""Collections of the training thread become pauses; those of others, and short ones, don't."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.capture import gc_pauses
from profiler.capture.session import CaptureConfig, Session
from profiler.record.reader import read_stream
from profiler.record.vocabulary import Kind, Name, code


def clock_of(*times_ns: int) -> Callable[[], int]:
    ticks = iter(times_ns)
    last = times_ns[-1]
    return lambda: next(ticks, last)


def pauses(session: Session) -> list[int]:
    words = [int(word) for word in read_stream(session.folder(), "thread-0")[:, 0]]
    return [word >> 24 for word in words if word & 0xFF == Kind.PAUSE and word >> 8 & 0xFFFF == Name.GARBAGE_COLLECTION]


@pytest.fixture(autouse=True)
def collect_by_hand() -> object:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("length_ns", "expected"), [(20_000, [20_000]), (19_999, [])])
def test_only_pauses_of_at_least_20_us_are_recorded(tmp_path: Path, length_ns: int, expected: list[int]) -> None:
    start = time.perf_counter_ns()
    clock = clock_of(start, start, start, start + length_ns, start + length_ns)
    session = Session(CaptureConfig(tmp_path), clock=clock)
    session.write(code(Kind.MARK, Name.ATTACHED))
    gc_pauses.install(session)
    clock()
    gc.collect()
    session.close()
    assert pauses(session) == expected


def test_a_collection_on_another_thread_is_not_the_training_threads_pause(tmp_path: Path) -> None:
    session = Session(CaptureConfig(tmp_path))
    session.write(code(Kind.MARK, Name.ATTACHED))
    gc_pauses.install(session)
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    assert pauses(session) == []
    session.close()


def test_no_folder_is_made_for_a_pause_before_the_first_event(tmp_path: Path) -> None:
    session = Session(CaptureConfig(tmp_path))
    gc_pauses.install(session)
    gc.collect()
    session.close()
    assert list(tmp_path.iterdir()) == []


def test_the_callback_is_removed_on_close_and_on_an_error_of_ours(tmp_path: Path, capsys: object) -> None:
    before = list(gc.callbacks)
    for end in (Session.close, lambda session: session.fail("a test", ValueError("planted"))):
        session = Session(CaptureConfig(tmp_path))
        gc_pauses.install(session)
        assert len(gc.callbacks) == len(before) + 1
        end(session)
        assert list(gc.callbacks) == before
