"""The numbers that categories, names, tracks and arguments of a trace are given while it is read.

In:  words as they stand in events.
Out: numbers, the same for the same word; -1 for what is not said.
"""

from __future__ import annotations

from typing import Any

from profiler.record.trace.python import Functions, Stacks
from profiler.record.trace.recording import Ints, Track, Work
from profiler.record.trace.shapes import Shapes, told_by

NOT_SAID = -1
OPERATORS, CALLS, DEVICE, PYTHON = "operators", "calls", "device", "python"
SPAN_ALONE, LEFT_OUT = "", "Trace"  # of unknown categories; of the recording itself as an event
TABLES = (SPAN_ALONE, LEFT_OUT, OPERATORS, CALLS, DEVICE, PYTHON)
_RANGE = "user_annotation"
_WORK = {
    "kernel": Work.KERNEL,
    "Kernel": Work.KERNEL,
    "hpu_op": Work.KERNEL,
    "mtia_ccp_events": Work.KERNEL,
    "gpu_memcpy": Work.COPY,
    "Memcpy": Work.COPY,
    "gpu_memset": Work.SET,
    "Memset": Work.SET,
}
_TABLES = {
    **dict.fromkeys(("cpu_op", "Operator", _RANGE), OPERATORS),
    **dict.fromkeys(_WORK, DEVICE),
    "python_function": PYTHON,
    LEFT_OUT: LEFT_OUT,
}


def is_runtime(category: str) -> bool:
    """Whether a category holds calls of a device's runtime or driver, of any maker."""
    return category == "Runtime" or category.endswith(("_runtime", "_driver"))


class Kinds(dict[Any, int]):
    """What a category is: eight times the number of its table, and what it is within that (`detail_of`)."""

    def __missing__(self, category: object) -> int:
        name = category if isinstance(category, str) else ""
        table = _TABLES.get(name, CALLS if is_runtime(name) else SPAN_ALONE)
        kind = self[category] = 8 * TABLES.index(table) + int(_WORK.get(name, name == _RANGE))
        return kind


def table_of(kinds: Ints) -> Ints:
    """Places in `TABLES`."""
    return kinds // 8


def detail_of(kinds: Ints) -> Ints:
    """Of operators whether they are ranges that somebody marked; of the device's events the `Work`."""
    return kinds % 8


class Names(dict[Any, int]):
    """Gives each new name the next number; `known` holds them in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, int] = {}
        self.told = bytearray()  # what tells the work of the operators of each name (`shapes.told_by`)

    def __missing__(self, given: object) -> int:
        name = str(given)
        number = self.known.get(name)
        if number is None:
            number = self.known[name] = len(self.known)
            self.told.append(told_by(name))
        self[given] = number
        return number


class Said(dict[Any, int]):
    """Numbers of names that few events say."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, word: object) -> int:
        number = self[word] = self._names[str(word)] if word else NOT_SAID
        return number


class Tracks(dict[Any, "_Threads"]):
    """Numbers of tracks, by process and thread as they stand in the file: a thread may be 7 here and "7" there."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Track, int] = {}

    def __missing__(self, process: object) -> _Threads:
        threads = self[process] = _Threads(str(process), self.known)
        return threads

    def number(self, process: object, thread: object) -> int:
        """Of one track."""
        return self[process][thread]


class _Threads(dict[Any, int]):
    """Numbers of the tracks of one process."""

    def __init__(self, process: str, known: dict[Track, int]) -> None:
        super().__init__()
        self._process, self._known = process, known

    def __missing__(self, thread: object) -> int:
        number = self[thread] = self._known.setdefault(Track(self._process, str(thread)), len(self._known))
        return number


class Numbers:
    """All of them, of one trace."""

    def __init__(self) -> None:
        self.kinds = Kinds()
        self.names = Names()
        self.said = Said(self.names)
        self.functions = Functions(self.names)
        self.stacks = Stacks(self.names)
        self.tracks = Tracks()
        self.shapes = Shapes()
