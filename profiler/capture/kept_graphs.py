"""What keeps the graphs of past steps alive: a list of tensors that still have their `grad_fn`, or a sum of losses.

Only where memory has grown since the training's first steps: then the objects that Python's collector knows are
looked through twice, some steps apart, and what gets longer with the steps is noted with its name, where it has one
that can be found without touching a running frame. The steps in which we look are labelled as ours.

Out: `kept` notes.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from threading import get_ident
from types import FrameType
from typing import Any

import torch

from ..record.vocabulary import Instrument, Kind, Name, code
from .callsite import is_user_code
from .resources import rss_reader
from .session import Session

_BASELINE_STEP, _FIRST_STEP, _NEXT = 20, 40, 5  # looked at 40 steps, 200, 1,000, …
_AGAIN_AFTER = 8  # steps between the two looks
_GROWTH_BYTES = 16 << 20
_FEWEST = 16  # kept tensors below which nothing is said
_MOST_STEPS_EACH = 8  # a graph kept every so many steps, at the rarest
_OBJECTS = 5_000_000  # looked through at most: some 0.1 µs each
_CHAIN = 4096
_SUM = 0  # no object's identity
_MOST_NOTES = 8
_MOST_LINES = 2000  # of a function, the last ones: its loop is there

_PUSH = code(Kind.PUSH, Name.INSTRUMENT, Instrument.KEPT_GRAPHS)
_POP = code(Kind.POP, Name.INSTRUMENT, Instrument.KEPT_GRAPHS)


def install(session: Session) -> None:
    """Look now and then, if the session looks deep."""
    if session.config.deep:
        session.on_step(KeptGraphs(session).on_step, first=_BASELINE_STEP)


class KeptGraphs:
    """Waits for memory to grow, and finds what keeps it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rss = rss_reader()
        self._before_bytes = 0
        self._due = _FIRST_STEP
        self._seen: dict[int, int] = {}  # identity → length, at the first of two looks
        self._notes_left = _MOST_NOTES

    def on_step(self) -> int | None:
        """Listens to optimizer steps; returns the next one of interest."""
        session = self._session
        if session.owner != get_ident():
            return session.steps + 1
        if not self._before_bytes:
            self._before_bytes = self._used_bytes()
            return self._due
        if not self._seen and self._used_bytes() - self._before_bytes < _GROWTH_BYTES:
            self._due *= _NEXT
            return self._due
        session.write(_PUSH)
        try:
            found = dict(_growing(session.steps))
            again = bool(self._seen)
            if again:
                self._report(found)
            self._seen = {} if again else {identity: length for identity, (length, _) in found.items()}
        finally:
            session.write(_POP)
        if self._seen:
            return session.steps + _AGAIN_AFTER
        self._due = max(self._due * _NEXT, session.steps + 1)
        return self._due if self._notes_left > 0 else None

    def _used_bytes(self) -> int:
        used = self._rss() if self._rss is not None else 0
        return used + (torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0)

    def _report(self, found: dict[int, tuple[int, Any]]) -> None:
        place = _place(sys._getframe(1))
        for identity, (length, kept) in found.items():
            grew = length - self._seen.get(identity, length)
            if grew < 1 or self._notes_left <= 0:
                continue
            self._notes_left -= 1
            is_sum = isinstance(kept, torch.Tensor)
            last = None if is_sum else _last(kept)
            self._session.note(
                "kept",
                what="sum" if is_sum else "list",
                count=length,
                grew=grew,
                bytes_each=last.untyped_storage().nbytes() if isinstance(last, torch.Tensor) else None,
                name=_name_of(kept, sys._getframe(1)),
                **place,
            )


def _growing(steps: int) -> Iterator[tuple[int, tuple[int, Any]]]:
    """Containers and sums that hold a graph for every step, or for one in a few: identity → (how many, the thing).

    A sum is another tensor after each step, so that the longest one stands for it.
    """
    least = max(_FEWEST, steps // _MOST_STEPS_EACH)
    longest: tuple[int, Any] = (0, None)
    for number, thing in enumerate(gc.get_objects()):
        if number >= _OBJECTS:
            break
        kind = type(thing)
        try:
            if kind is list or kind is deque or kind is dict:
                if len(thing) >= least and _last(thing) is not None:
                    yield id(thing), (len(thing), thing)
            elif kind is torch.Tensor and thing.numel() == 1:
                length = _additions(thing.grad_fn)
                if length >= max(least, longest[0]):
                    longest = (length, thing)
        except Exception:  # it changes while we look, or answers with an error
            continue
    if longest[0]:
        yield _SUM, longest


def _last(container: Any) -> Any:
    """The tensor with a graph that was put in last, itself or first in a tuple, list or dict; None for none."""
    item = next(reversed(container.values())) if isinstance(container, dict) else container[-1]
    for value in _values(item):
        if isinstance(value, torch.Tensor) and value.grad_fn is not None:
            return value
    return None


def _values(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return list(item.values())[:8]
    return item[:8] if type(item) in (list, tuple) else (item,)


def _additions(node: Any) -> int:
    """How many additions follow one another in a graph, each of them the first or second part of the next."""
    length = 0
    while node is not None and length < _CHAIN and type(node).__name__ == "AddBackward0":
        length += 1
        parts = [part for part, _ in node.next_functions if part is not None]
        node = next((part for part in parts if type(part).__name__ == "AddBackward0"), None)
    return length


def _name_of(thing: Any, frame: FrameType | None) -> str | None:
    """A global's name, or an attribute's; None where only a running function's local variable holds it."""
    for seen in _user_frames(frame):
        for name, value in list(seen.f_globals.items()):
            if value is thing:
                return name
    for holder in gc.get_referrers(thing):
        for name, value in _variables(holder):
            if value is thing and isinstance(name, str) and name.isidentifier():
                return name
    return None


def _variables(holder: Any) -> list[tuple[Any, Any]]:
    """A dict's items, or an object's attributes."""
    if type(holder) is not dict:
        try:
            holder = object.__getattribute__(holder, "__dict__")
        except AttributeError:
            return []
    return list(holder.items())


def _place(frame: FrameType | None) -> dict[str, Any]:
    """The user's innermost function, and those of its lines that hold code: one of them may be what keeps it."""
    frame = next(_user_frames(frame), None)
    if frame is None:
        return {}
    lines = sorted({line for _, _, line in frame.f_code.co_lines() if line})
    return {
        "file": os.path.abspath(frame.f_code.co_filename),  # noqa: PTH100
        "lines": lines[-_MOST_LINES:],
        "function": frame.f_code.co_name,
    }


def _user_frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        if is_user_code(frame.f_code):
            yield frame
        frame = frame.f_back
