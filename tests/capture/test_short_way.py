"""The short way in C: it does what the Python functions do, keeps no object alive, and hands over what it must."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from profiler.capture import gate as gates
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig, Session

fast = gates.fast
pytestmark = pytest.mark.skipif(fast is None, reason="the C module was not built here")
PUSH, POP, RAISED, ENDED = 1, 2, 3, 4
HERE = Path(__file__).parent


class Holder:
    """Something that carries its codes."""

    def __init__(self) -> None:
        self.codes = fast.Codes()
        self.codes.keep(PUSH, POP, RAISED, ENDED)


def gate(owner: int | None = None) -> Any:
    made = fast.Gate()
    made.owner = threading.get_ident() if owner is None else owner
    made.due = gates.NEVER
    return made


def codes_of(events: bytes) -> list[int]:
    return array("Q", events)[::2].tolist()


def interval(
    function: Callable[..., Any], owner: int | None = None, key: str | None = "codes", is_step: bool = False
) -> tuple[Any, Any, list[Any]]:
    """A gate, an interval over `function`, and the calls that took the long way."""
    slow_calls: list[Any] = []

    def slow(*args: Any, **kwargs: Any) -> Any:
        slow_calls.append((args, kwargs))
        return function(*args, **kwargs)

    made = gate(owner)
    return made, fast.Interval(made, function, slow, key, is_step), slow_calls


def test_a_call_is_an_interval_in_the_clock_of_perf_counter() -> None:
    made, call, slow_calls = interval(lambda holder, x, *, y: (x, y))
    before = time.perf_counter_ns()
    assert call(Holder(), 3, y=4) == (3, 4)
    after = time.perf_counter_ns()
    words = array("Q", made.take())
    assert words[::2].tolist() == [PUSH, POP]
    assert before <= words[1] <= words[3] <= after
    assert not slow_calls
    assert len(made) == 0


@pytest.mark.parametrize(("error", "code"), [(ValueError, RAISED), (KeyboardInterrupt, RAISED), (StopIteration, ENDED)])
def test_an_exception_goes_through_and_is_told(error: type[BaseException], code: int) -> None:
    def fail(holder: Holder) -> None:
        raise error("planted")

    made, call, _ = interval(fail)
    with pytest.raises(error, match="planted"):
        call(Holder())
    assert codes_of(made.take()) == [PUSH, code]


def test_the_long_way_is_taken_by_other_threads_without_codes_and_when_the_gate_is_closed() -> None:
    made, call, slow_calls = interval(lambda *args: 7)
    thread = threading.Thread(target=call, args=(Holder(),))
    thread.start()
    thread.join()
    assert call(object()) == 7
    assert call() == 7
    made.owner = 0
    assert call(Holder()) == 7
    assert len(slow_calls) == 4
    assert len(made) == 0


def test_a_step_is_counted_listeners_are_called_and_an_inner_step_is_part_of_the_outer_one() -> None:
    calls: list[int] = []
    made, call, _ = interval(lambda holder, inner: inner and call(holder, False), is_step=True)
    made.on_due, made.due = lambda: calls.append(made.steps), 2
    for _ in range(3):
        call(Holder(), True)
    assert codes_of(made.take()) == [PUSH, POP] * 3
    assert (made.steps, calls, made.in_step) == (3, [2, 3], False)


def test_an_interrupt_in_a_listener_reaches_the_training() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    made, call, _ = interval(lambda holder: None, is_step=True)
    made.on_due, made.due = interrupted, 1
    with pytest.raises(KeyboardInterrupt):
        call(Holder())


def test_no_reference_is_kept_or_lost() -> None:
    value, holder = object(), Holder()

    def through(holder: Holder, x: object, fails: bool = False) -> object:
        if fails:
            raise ValueError
        return x

    made, call, _ = interval(through)
    watched = (value, holder, holder.codes, through, made, call, None)
    before = [sys.getrefcount(thing) for thing in watched]
    for number in range(1000):
        call(holder, value)
        call(holder, x=value)
        try:
            call(holder, value, fails=True)
        except ValueError:
            pass
        if number % 100 == 0:
            made.take()
    made.take()
    after = [sys.getrefcount(thing) for thing in watched]
    assert [b - a for a, b in zip(before[:-1], after[:-1], strict=True)] == [0] * 6
    assert abs(after[-1] - before[-1]) < 50


def test_a_cycle_through_an_interval_is_collected() -> None:
    class Marked:
        pass

    def cycle() -> Any:
        marked = Marked()
        made = gate()

        def slow() -> None:
            assert call and marked

        call = fast.Interval(made, len, slow)
        made.on_due = slow
        call.itself = call
        import weakref

        return weakref.ref(marked)

    reference = cycle()
    gc.collect()
    assert reference() is None


def test_many_events_are_kept_in_order() -> None:
    made = gate()
    for number in range(5000):
        made.record((number, number + 1))
    words = array("Q", made.take())
    assert words[::2].tolist() == list(range(5000))
    assert words[1::2].tolist() == list(range(1, 5001))
    with pytest.raises(TypeError):
        made.record([1, 2])
    with pytest.raises(OverflowError):
        made.record((-1, 2))


@pytest.fixture
def session(tmp_path: Path) -> Any:
    (tmp_path / "processes").mkdir()
    session = begin(CaptureConfig(tmp_path, deep=False))
    yield session
    end(session)


def test_what_stands_in_place_of_a_method_looks_and_travels_like_it(session: Session) -> None:
    method = torch.optim.Optimizer.zero_grad
    assert isinstance(method, fast.Interval)
    assert method.__name__ == "zero_grad"
    assert list(inspect.signature(method).parameters) == ["self", "set_to_none"]
    assert pickle.loads(pickle.dumps(method)) is method
    assert copy.deepcopy(method) is method
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    bound = optimizer.step
    assert bound.__self__ is optimizer
    assert bound.__func__ is type(optimizer).step


def test_a_module_keeps_no_trace_in_copies_and_is_not_kept_alive(session: Session) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):  # past the search for roots
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert session.gate.owner == threading.get_ident()
    assert not session.gate.searching
    assert copy.deepcopy(model)._compiled_call_impl is None
    assert pickle.loads(pickle.dumps(model))._compiled_call_impl is None
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.ones(1, 3))
    import weakref

    reference = weakref.ref(model)
    del model, optimizer
    assert reference() is None


def test_the_compiler_finds_python_functions(session: Session) -> None:
    assert isinstance(torch.autograd.backward, fast.Interval)
    torch.compile(nn.Linear(2, 2), backend="eager")
    assert inspect.isfunction(torch.autograd.backward)
    assert inspect.isfunction(torch.optim.SGD.step)
    assert session.gate.owner == 0
    end(session)
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert not hasattr(torch.autograd.backward, "__wrapped__")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_holds_without_the_c_module() -> None:
    environment = {**os.environ, "PROF_PURE_PYTHON": "1"}
    files = [
        str(HERE / name) for name in ("test_transparency.py", "test_loop_shapes.py", "test_asynchronous_device.py")
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-3000:]
