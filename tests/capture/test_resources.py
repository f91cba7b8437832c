"""What the kernel says of a thread that shares its core."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from profiler.capture import resources


@pytest.mark.skipif(resources.run_delay_ns(threading.get_native_id()) is None, reason="this kernel does not count")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads can't be bound to a core here")
def test_a_thread_that_shares_its_core_stands_ready_without_one() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # of this thread; what it starts stays there, too
    beside = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before_ns, until = resources.run_delay_ns(threading.get_native_id()), time.perf_counter() + 0.6
        while time.perf_counter() < until:
            pass
        after_ns = resources.run_delay_ns(threading.get_native_id())
    finally:
        beside.kill()
        beside.wait()
        os.sched_setaffinity(0, cores)
    assert before_ns is not None
    assert after_ns is not None
    assert 0.1e9 < after_ns - before_ns < 0.7e9


def test_of_a_thread_that_is_no_more_nothing_is_said() -> None:
    assert resources.run_delay_ns(2**22 + 1) is None
