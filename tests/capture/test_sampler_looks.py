"""Looks at a thread whose place is known, by both ways of looking."""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from profiler.capture import looks as ways
from profiler.capture.looks import Looks, PythonLooks, open_looks
from profiler.capture.stack_walk import line_of

pytestmark = pytest.mark.alone

MS = 1_000_000


@pytest.fixture(params=["compiled", "python"])
def open_way(request: pytest.FixtureRequest) -> Callable[[bool], Looks]:
    if request.param == "python":
        return PythonLooks
    if ways._compiled() is None:
        pytest.skip("the sampler's loop was not compiled here")
    return open_looks


def looked(looks: Looks, thread: int, seconds: float, period_ms: float = 5) -> list[tuple[int, ways.UserPlace]]:
    """Look from here at another thread; the samples' times and places."""
    looks.thread = thread
    assert looks.run(time.perf_counter_ns() + int(seconds * 1e9), int(period_ms * MS), MS)
    samples, places = looks.take()
    return [(time_ns, places[number]) for time_ns, number, _ in samples]


class Busy:
    """A thread that calls a function over and over."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._work()

    def __enter__(self) -> int:
        self._thread.start()
        assert self._thread.ident is not None
        return self._thread.ident

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def numbers(depth: int) -> Iterator[int]:
    if depth:
        yield from numbers(depth - 1)
    yield from range(3)


def a_sum() -> int:
    return sum(numbers(8))


def test_every_look_gives_a_line_of_the_users(open_way: Callable[[bool], Looks]) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with Busy(a_sum) as thread:
            found = looked(open_way(False), thread, 1.5, period_ms=1)
    finally:
        sys.setswitchinterval(before)
    assert len(found) > 50
    assert {code.co_name for _, (code, _, _, _) in found} <= {"numbers", "a_sum", "_run"}
    for _, (code, instruction, leaf, _) in found:
        assert code.co_firstlineno <= line_of(code, instruction) < code.co_firstlineno + 10
        assert leaf is None or leaf.co_filename != __file__
    times = [time_ns for time_ns, _ in found]
    assert times == sorted(times)


def indented() -> None:
    json.dumps(list(range(20_000)), indent=1)  # with an indent, the encoder is pure Python


def test_the_leaf_is_what_runs_on_the_line(open_way: Callable[[bool], Looks]) -> None:
    with Busy(indented) as thread:
        found = looked(open_way(False), thread, 1.0)
    inside = [place for _, place in found if place[0].co_name == "indented" and place[2] is not None]
    assert len(inside) > 5
    assert all(Path(leaf.co_filename).parent.name == "json" for _, _, leaf, _ in inside if leaf is not None)
    modules = Counter(variables["__name__"] for *_, variables in inside if variables is not None)
    assert set(modules) <= {"json", "json.encoder"}
    assert modules["json.encoder"] > 0.8 * len(inside)


TEXT = json.dumps(list(range(400_000)))


def half_and_half() -> None:
    json.loads(TEXT)  # C code that keeps the GIL for tens of milliseconds
    took_s = -time.perf_counter()
    json.loads(TEXT)
    took_s += time.perf_counter()
    time.sleep(took_s)


def test_a_call_that_keeps_the_gil_is_seen_for_its_time(open_way: Callable[[bool], Looks]) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        with Busy(half_and_half) as thread:
            found = looked(open_way(False), thread, 4.0)
    finally:
        sys.setswitchinterval(before)
    first = half_and_half.__code__.co_firstlineno
    lines = Counter(line_of(code, at) - first for _, (code, at, _, _) in found if code.co_name == "half_and_half")
    parsing, sleeping = lines[1] + lines[3], lines[5]
    assert parsing / (parsing + sleeping) == pytest.approx(2 / 3, abs=0.1)


def test_memory_is_read_with_each_look(open_way: Callable[[bool], Looks]) -> None:
    looks = open_way(False)
    looks.thread = threading.get_ident()
    looks.run(time.perf_counter_ns() + 100 * MS, 5 * MS, MS)
    samples, _ = looks.take()
    assert len(samples) >= 5
    assert all(10e6 < rss_bytes < 1e12 for _, _, rss_bytes in samples)
    assert looks.take() == ([], [])
    assert 0 < looks.looks <= len(samples)


def test_libraries_whose_name_begins_as_torchs_are_not_torchs() -> None:
    def owner(path: str) -> int:
        return ways.class_of(compile("pass", path, "exec"))

    beside = ways._TORCH.removesuffix("torch")
    assert owner(beside + "torch/nn/modules/linear.py") == ways.OTHER
    assert owner(beside + "torchvision/datasets/folder.py") == ways.INSTALLED
    assert owner(ways._OURS + "_bench/train.py") == ways.USER
    assert owner(ways._OURS + "/capture/session.py") == ways.OURS


def test_nobody_is_looked_at_until_a_thread_is_named(open_way: Callable[[bool], Looks]) -> None:
    assert looked(open_way(False), 0, 0.05) == []


def test_a_thread_that_is_gone_gives_nothing(open_way: Callable[[bool], Looks]) -> None:
    with Busy(a_sum) as thread:
        pass
    assert looked(open_way(False), thread, 0.05) == []


def test_stop_ends_it_at_once_and_for_good(open_way: Callable[[bool], Looks]) -> None:
    looks = open_way(False)
    timer = threading.Timer(0.1, looks.stop)
    timer.start()
    began_s = time.perf_counter()
    assert not looks.run(time.perf_counter_ns() + 10_000 * MS, 5_000 * MS, MS)
    assert time.perf_counter() - began_s < 3
    assert not looks.run(time.perf_counter_ns() + 10_000 * MS, 5_000 * MS, MS)
    looks.stop()


def test_in_a_worker_the_dataset_is_seen_and_waiting_is_not(open_way: Callable[[bool], Looks]) -> None:
    def made(source: str, path: str) -> Any:
        names: dict[str, Any] = {}
        exec(compile(source, path, "exec"), names)
        return names["run"]

    wait = "from time import sleep\ndef run(): sleep(0.3)\n"
    decode = made(wait, "/env/site-packages/PIL/Image.py")
    item = made("def run(inner): return inner()", "/env/site-packages/torchvision/datasets/folder.py")
    loop = made("def _worker_loop(inner): return inner()\nrun = _worker_loop", ways._TORCH + "/utils/data/w.py")
    fetch = made(wait, ways._TORCH + "/utils/data/fetch.py")
    ours = made("def run(inner): return inner()", ways._LOOKING)

    def seen(work: Callable[[], Any]) -> set[str]:
        with Busy(work) as thread:
            time.sleep(0.05)
            return {code.co_filename for _, (code, _, _, _) in looked(open_way(True), thread, 0.1)}

    assert seen(lambda: loop(lambda: item(decode))) == {__file__}  # the lambda is the user's
    assert seen(functools.partial(loop, functools.partial(item, decode))) == {item.__code__.co_filename}
    assert seen(functools.partial(loop, fetch)) == set()
    assert seen(functools.partial(item, decode)) == set()  # no loop yet: the worker is starting
    assert seen(functools.partial(loop, functools.partial(ours, decode))) == set()  # we called that


def test_an_error_in_telling_whose_code_it_is_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    if ways._compiled() is None:
        pytest.skip("the sampler's loop was not compiled here")

    def fails(code: Any) -> int:
        raise ValueError("planted")

    looks = ways._compiled().Looks(sys._current_frames, fails, False, -1, 4096, 1)
    with Busy(a_sum) as thread, pytest.raises(ValueError, match="planted"):
        looked(looks, thread, 1.0)
    looks.thread = 0
    assert looks.run(time.perf_counter_ns() + MS, MS, MS)
    assert looks.take() == ([], [])


def test_a_look_keeps_nothing_of_a_frame_alive() -> None:
    if ways._compiled() is None:
        pytest.skip("the sampler's loop was not compiled here")

    class Kept:
        gone = 0

        def __del__(self) -> None:
            Kept.gone += 1

    called = 0

    def with_local() -> None:
        nonlocal called
        called += 1
        kept = Kept()
        time.sleep(0.001)
        del kept

    looks = open_looks(False)
    with Busy(with_local) as thread:
        looked(looks, thread, 0.5, period_ms=1)
    assert called > 10
    assert Kept.gone == called
