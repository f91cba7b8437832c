"""Where a thread is, seen now and then from another: in C where it could be built, else in Python.

A look gives the innermost line of the user's and what runs on it. For a program that is itself an installed package
it gives the innermost line outside torch and Python's own; in a DataLoader's worker what its loop called, and of
installed code the outermost, which is the data set's.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import threading
import time
from types import CodeType
from typing import Any, Protocol

import torch

from . import resources, worker_looks
from .callsite import is_user_code
from .gate import fast
from .stack_walk import Stack, stack_of

OTHER, USER, INSTALLED, OURS, WORKER_LOOP, LOOKING = range(6)

Sample = tuple[int, int, int]  # time in ns, number of the place, resident bytes or -1
UserPlace = tuple[CodeType, int, CodeType | None, dict[str, Any] | None]  # code, instruction, leaf's code and globals

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))  # noqa: PTH100, PTH120
_STDLIB = os.path.dirname(os.path.abspath(threading.__file__))  # noqa: PTH100, PTH120
_LONGEST = 5.0  # periods between two looks
_MOMENT_NS = 2_000_000  # in which a thread may have gone on to another line before we had the GIL
_MOST_REPEATS = 256  # of one look: a machine that slept is no line of the user's
_LOOKING = os.path.abspath(worker_looks.__file__)  # noqa: PTH100


class Looks(Protocol):
    """Looks at one thread, which are made by the thread that calls `run`."""

    thread: int  # identity of the thread that is looked at; 0: none
    looks: int  # made so far
    waited_ns: int  # for the GIL, in all looks so far

    def run(self, end_ns: int, period_ns: int, shortest_ns: int) -> bool:
        """Look until then, at random distances of a period on the average. False: stopped."""

    def stop(self) -> None:
        """End `run` at once, now and later; from any thread."""

    def take(self) -> tuple[list[Sample], list[UserPlace]]:
        """What was seen since the last time; places are numbered in the order in which they were first given."""


def class_of(code: CodeType) -> int:
    """Whose a function is."""
    path = code.co_filename
    if code.co_name == "_worker_loop":
        return WORKER_LOOP
    if path.startswith(_OURS + os.sep):
        return LOOKING if path == _LOOKING else OURS
    if is_user_code(code):
        return USER
    if path.startswith((_TORCH + os.sep, "<")):
        return OTHER
    installed = "site-packages" in path or "dist-packages" in path
    return INSTALLED if installed or not path.startswith(_STDLIB) else OTHER


def users_place(stack: Stack, worker: bool) -> int | None:
    """Where in a stack the line is that a look gives."""
    user = installed = None
    for at, (code, _, _) in enumerate(stack):
        kind = class_of(code)
        if worker and kind == WORKER_LOOP:
            return user if user is not None else installed
        if kind == USER and user is None:
            if not worker:
                return at
            user = at
        if kind == INSTALLED and (worker or installed is None):
            installed = at
        if worker and kind == LOOKING:
            installed = None  # we called that
    return None if worker else installed  # a worker that is not in its loop starts or ends


def open_looks(worker: bool) -> Looks:
    """Looks in the quickest way that there is here."""
    compiled = _compiled()
    if compiled is None:
        return PythonLooks(worker)
    seed = random.SystemRandom().getrandbits(63)  # the user's random state is theirs
    statm = resources.open_statm()
    page_bytes = resources.PAGE_BYTES
    looks: Looks = compiled.Looks(
        sys._current_frames, class_of, worker, -1 if statm is None else statm, page_bytes, seed
    )
    return looks


def _compiled() -> Any:
    if fast is None:  # not built, or not wanted
        return None
    try:
        return importlib.import_module("._looks", __package__)
    except ImportError:
        return None


class PythonLooks:
    """What `_looks.Looks` is, at ten times the cost."""

    def __init__(self, worker: bool) -> None:
        self.thread = 0
        self.looks = 0
        self.waited_ns = 0
        self._worker = worker
        self._rss = resources.rss_reader()
        self._random = random.Random()  # the user's random state is theirs
        self._wake = threading.Lock()  # held; its release ends `run`
        self._wake.acquire()
        self._samples: list[Sample] = []
        self._met: list[UserPlace] = []
        self._numbers: dict[tuple[str, CodeType, int, str, CodeType | None], int] = {}

    def run(self, end_ns: int, period_ns: int, shortest_ns: int) -> bool:
        """As in `Looks`."""
        while True:
            now_ns = time.perf_counter_ns()
            next_ns = now_ns + self._distance_ns(period_ns, shortest_ns)
            if self._wake.acquire(timeout=max(0, min(next_ns, end_ns) - now_ns) / 1e9):
                self._wake.release()
                return False
            if next_ns >= end_ns:
                return True
            if self.thread:
                self._look(next_ns, period_ns, shortest_ns)

    def _look(self, wanted_ns: int, period_ns: int, shortest_ns: int) -> None:
        stack = stack_of(self.thread)
        waited_ns = max(0, time.perf_counter_ns() - wanted_ns)  # for the GIL, and for a core
        self.waited_ns += waited_ns
        self.looks += 1
        at = users_place(stack, self._worker)
        if at is not None:
            rss_bytes = self._rss() if self._rss is not None else -1
            number = self._number(stack, at)
            seen_ns, repeats = wanted_ns + waited_ns, 0
            if waited_ns < _MOMENT_NS:
                wanted_ns = seen_ns
            while repeats == 0 or (wanted_ns < seen_ns and repeats < _MOST_REPEATS):
                self._samples.append((wanted_ns, number, rss_bytes))
                wanted_ns += self._distance_ns(period_ns, shortest_ns)
                repeats += 1

    def _distance_ns(self, period_ns: int, shortest_ns: int) -> int:
        return max(shortest_ns, int(period_ns * min(self._random.expovariate(1.0), _LONGEST)))

    def _number(self, stack: Stack, at: int) -> int:
        code, instruction, _ = stack[at]
        leaf = next((place for place in stack[:at] if class_of(place[0]) not in (OURS, LOOKING)), None)
        inner = leaf[0] if leaf is not None else None
        # equal code objects may stand in several files
        key = (code.co_filename, code, instruction, inner.co_filename if inner is not None else "", inner)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            self._met.append((code, instruction, *((leaf[0], leaf[2]) if leaf is not None else (None, None))))
        return number

    def stop(self) -> None:
        """As in `Looks`."""
        if self._wake.locked():
            self._wake.release()

    def take(self) -> tuple[list[Sample], list[UserPlace]]:
        """As in `Looks`."""
        taken = self._samples, self._met
        self._samples, self._met = [], []
        return taken
