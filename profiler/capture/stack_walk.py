"""Look at another thread's stack, all at once.

A walk along `f_back` in Python can be interrupted between two frames, and the thread goes on meanwhile. Under load,
on CPython 3.11, such a walk once met something that was no frame at all: a link into memory that had been used
again. So the walk is one call into C, made of iterators from the standard library, during which the GIL is not let
go of; what it gives is code objects and numbers, never a frame.

Before 3.12 any allocation may start a garbage collection, and a collection may run Python code, which lets go of the
GIL. There a walk is made only where the youngest generation has room for all that it allocates; where it has not,
the collection that was about to come is asked for first.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from itertools import accumulate, chain, islice, repeat, takewhile
from operator import attrgetter, itemgetter, truth
from types import CodeType
from typing import Any

Place = tuple[CodeType, int, dict[str, Any]]  # code, index of the last instruction, globals
Stack = tuple[Place, ...]  # innermost first

_DEEPEST = 100
_ALLOCATIONS = 2 * _DEEPEST + 20  # a frame and a tuple for each place, and the threads' first frames
_PREPARATIONS = 40  # the iterators themselves
_ANY_ALLOCATION_COLLECTS = sys.version_info < (3, 12)
_facts_of = attrgetter("f_code", "f_lasti", "f_globals")
_lines: dict[CodeType, list[tuple[int, int, int | None]]] = {}


def stack_of(thread: int) -> Stack:
    """The frames of a thread by its identity, innermost first; empty when there is no such thread, or no safe look."""
    # lazily: nothing is looked at before `tuple` runs, and then everything is, in C
    top: Iterator[Any] = islice(map(itemgetter(thread), iter(sys._current_frames, None)), 1)
    if _ANY_ALLOCATION_COLLECTS and gc.isenabled() and (threshold := gc.get_threshold()[0]):
        highest = threshold - _ALLOCATIONS
        if gc.get_count()[0] > highest - _PREPARATIONS:
            gc.collect(0)
        has_room = takewhile(highest.__ge__, map(itemgetter(0), iter(gc.get_count, None)))
        top = map(itemgetter(1), zip(has_room, top))  # noqa: B905 - the first to end is to end both
    frames: Any = accumulate(chain(top, repeat("f_back")), getattr)
    try:
        return tuple(map(_facts_of, islice(takewhile(truth, frames), _DEEPEST)))
    except (KeyError, AttributeError):  # no such thread; no first frame
        return ()


def line_of(code: CodeType, instruction: int) -> int:
    """The line of an instruction of a code object."""
    table = _lines.get(code)
    if table is None:
        table = _lines[code] = list(code.co_lines())
    for first, end, line in table:
        if first <= instruction < end and line is not None:
            return line
    return code.co_firstlineno
