"""What is seen of another thread's stack, while that thread runs on."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from profiler.capture.stack_walk import line_of, stack_of


def numbers(depth: int) -> Iterator[int]:
    if depth:
        yield from numbers(depth - 1)
    yield from range(3)


@pytest.fixture
def busy_thread() -> Iterator[int]:
    """A thread that is never twice in the same place: calls, generators and their frames come and go.

    Garbage collections, which this thread causes and ours may, run Python code, and so let go of the GIL.
    """
    stop = threading.Event()
    garbage = [[] for _ in range(100_000)]  # type: list[list[int]]

    def work() -> None:
        while not stop.is_set():
            sum(numbers(8))
            sorted(numbers(4), key=lambda value: -value)
            garbage[:50] = [[] for _ in range(50)]

    def collected(phase: str, info: dict[str, int]) -> None:
        for _ in range(20):
            pass

    gc.callbacks.append(collected)
    thread = threading.Thread(target=work)
    thread.start()
    assert thread.ident is not None
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield thread.ident
    finally:
        sys.setswitchinterval(before)
        stop.set()
        thread.join()
        gc.callbacks.remove(collected)


def test_every_look_gives_one_whole_stack(busy_thread: int) -> None:
    known = {"numbers", "work", "<lambda>", "run", "_bootstrap", "_bootstrap_inner", "is_set"}
    known |= {"collected", "<listcomp>"}
    end = time.monotonic() + 2
    looks = 0
    while time.monotonic() < end:
        names = [code.co_name for code, _, _ in stack_of(busy_thread)]
        assert set(names) <= known
        assert names[-3:] == ["run", "_bootstrap_inner", "_bootstrap"]
        looks += 1
    assert looks > 100


def test_a_thread_that_is_gone_has_no_stack() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None
    assert stack_of(thread.ident) == ()


def test_the_line_is_the_one_that_runs() -> None:
    code, instruction, variables = stack_of(threading.get_ident())[1]
    assert code is sys._getframe().f_code
    assert variables is globals()
    assert line_of(code, instruction) == code.co_firstlineno + 1
