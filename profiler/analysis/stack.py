"""Who owns each moment of the training thread.

In:  PUSH, POP and MARK STEP events of one thread in time order, and the intervals still open before them.
Out: `Stack`: the same events, balanced, with the depth, the innermost open interval and the *label* that owns the
     time from each event to the next. Labels are exclusive, so that any sum of them is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiler.analysis import labels as lab
from profiler.record.reader import Events
from profiler.record.vocabulary import Kind, Name, Optimizer

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int16]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]

_DEEPEST = 24  # real stacks are three or four deep; deeper means that POPs were lost


@dataclass(frozen=True, slots=True)
class Codes:
    """The fields of the code words."""

    kind: Bytes
    name: Bytes
    detail: Bytes
    obj: Words
    flags: Words


def fields(events: Events) -> Codes:
    """Take code words apart (views, no copies)."""
    code = np.ascontiguousarray(events[:, 0])
    octets = code.view(np.uint8).reshape(-1, 8)
    words = code.view(np.uint16).reshape(-1, 4)
    return Codes(
        np.ascontiguousarray(octets[:, 0]),
        np.ascontiguousarray(octets[:, 1]),
        np.ascontiguousarray(octets[:, 3]),
        words[:, 2],
        words[:, 3],
    )


@dataclass(frozen=True, slots=True)
class Stack:
    """Balanced events of a stretch of one thread; the first `entries` of them were open before it began."""

    events: Events
    codes: Codes
    origin: Ints  # number of the event in what came in; -1 for entries and for POPs that repair put in
    entries: int
    push: Bools
    top: Ints  # after the event: the number of the innermost open PUSH, -1 for none
    partner: Ints  # of a PUSH its POP and the other way round, -1 while open
    loop: Bools  # PUSHes of the user's loop itself: nothing but stages of the user's own is open around them
    label: Labels  # who owns the time from the event to the next
    repaired: bool

    @property
    def time(self) -> Ints:
        """When each event happened, perf_counter nanoseconds."""
        return self.events[:, 1].view(np.int64)

    def open_at(self, index: int) -> Events:
        """The PUSHes that are open just before event `index`, outermost first."""
        found: list[int] = []
        at = int(self.top[index - 1]) if index > 0 else -1
        while at >= 0:
            found.append(at)
            at = int(self.top[at - 1]) if at > 0 else -1
        return self.events[found[::-1]]


def build(events: Events, entries: Events, user_labels: Mapping[int, int]) -> Stack:
    """Balance the events and say who owns each moment; `user_labels` maps numbers of `USER_STAGE` to labels."""
    every = np.concatenate((entries, events)) if len(entries) else events
    origin = np.arange(len(every), dtype=np.int64) - len(entries)
    origin[: len(entries)] = -1
    codes = fields(every)
    found = _nest(codes)
    repaired = found is None
    if found is None:
        every, origin = _repair(every, origin, codes)
        codes = fields(every)
        found = _nest(codes, trusted=True)
        assert found is not None
    push, top, partner, order = found
    loop, label = _own(codes, push, top, order, user_labels)
    return Stack(every, codes, origin, len(entries), push, top, partner, loop, label, repaired)


def _nest(codes: Codes, trusted: bool = False) -> tuple[Bools, Ints, Ints, list[Ints]] | None:
    """PUSHes, the innermost open one after each event, partners, and PUSHes by depth; None when unbalanced."""
    push = codes.kind == Kind.PUSH
    pop = codes.kind == Kind.POP
    depth = np.cumsum(push.view(np.int8) - pop.view(np.int8), dtype=np.int32)
    count = len(push)
    top = np.full(count, -1, dtype=np.int64)
    partner = np.full(count, -1, dtype=np.int64)
    order: list[Ints] = []
    if count == 0:
        return push, top, partner, order
    deepest = int(depth.max())
    if int(depth.min()) < 0 or (deepest > _DEEPEST and not trusted):
        return None
    for level in range(1, deepest + 1):
        at_level = depth == level
        opened = np.flatnonzero(push & at_level)
        closed = np.flatnonzero(pop & (depth == level - 1))
        # on one level PUSH and POP alternate, so the k-th POP closes the k-th PUSH
        partner[opened[: len(closed)]] = closed
        partner[closed] = opened[: len(closed)]
        inside = np.flatnonzero(at_level)
        top[inside] = opened[np.searchsorted(opened, inside, side="right") - 1]
        order.append(opened)
    if not trusted:
        pops = np.flatnonzero(pop)
        if bool((codes.name[pops] != codes.name[partner[pops]]).any()) or _implausible(codes, top, order):
            return None
    return push, top, partner, order


def _implausible(codes: Codes, top: Ints, order: list[Ints]) -> bool:
    """A batch is not fetched inside the model, nor does an optimizer step inside its own step: a POP was lost."""
    for opened in order[1:]:
        parent = top[opened - 1]
        name, above = codes.name[opened], codes.name[parent]
        lost = (name == Name.DATA_WAIT) & (
            (above == Name.FORWARD) | (above == Name.BACKWARD) | (above == Name.OPTIMIZER)
        )
        lost |= _is_step(codes, opened) & _is_step(codes, parent) & (codes.obj[opened] == codes.obj[parent])
        if bool(lost.any()):
            return True
    return False


def _is_step(codes: Codes, at: Ints) -> Bools:
    found: Bools = (codes.name[at] == Name.OPTIMIZER) & (codes.detail[at] == Optimizer.STEP)
    return found


_CALLS = (Name.FORWARD, Name.BACKWARD, Name.OPTIMIZER, Name.HOST_TO_DEVICE)


def _repair(events: Events, origin: Ints, codes: Codes) -> tuple[Events, Ints]:
    """Drop POPs that close nothing and put in those that are missing.

    A POP whose name lies deeper closes what is above it. Fetching a batch closes what the loop can't still be
    inside of, and so does an optimizer's step that is already open.
    """
    rows: list[tuple[int, int, int]] = []
    open_codes: list[int] = []
    code_list = events[:, 0].tolist()
    time_list = events[:, 1].tolist()
    origin_list = origin.tolist()

    def close_to(height: int, time: int) -> None:
        while len(open_codes) > height:
            rows.append(((open_codes.pop() & ~0xFF) | Kind.POP, time, -1))

    for code, time, source in zip(code_list, time_list, origin_list, strict=True):
        kind = code & 0xFF
        name = code >> 8 & 0xFFFF
        if kind == Kind.PUSH:
            close_to(_height_for(code, name, open_codes), time)
            open_codes.append(code)
        elif kind == Kind.POP:
            names = [opened >> 8 & 0xFFFF for opened in open_codes]
            if name not in names:
                continue
            close_to(len(names) - names[::-1].index(name), time)
            open_codes.pop()
        rows.append((code, time, source))
    table = np.array([row[:2] for row in rows], dtype=np.uint64).reshape(-1, 2)
    return table, np.array([row[2] for row in rows], dtype=np.int64)


def _height_for(code: int, name: int, open_codes: list[int]) -> int:
    """How much of the stack can really be open around this PUSH."""
    height = len(open_codes)
    if name == Name.DATA_WAIT:
        while height and open_codes[height - 1] >> 8 & 0xFFFF in _CALLS:
            height -= 1
    elif name == Name.OPTIMIZER and code >> 24 & 0xFF == Optimizer.STEP:
        same = [number for number, opened in enumerate(open_codes) if opened & 0xFFFFFFFFFFFF == code & 0xFFFFFFFFFFFF]
        height = same[0] if same else height
    return min(height, _DEEPEST)


def _own(
    codes: Codes, push: Bools, top: Ints, order: list[Ints], user_labels: Mapping[int, int]
) -> tuple[Bools, Labels]:
    """Which PUSHes are the loop's own, and the label of the time after each event."""
    count = len(push)
    resolved = np.full(count + 1, lab.OTHER, dtype=np.int16)  # one more, so that index -1 is "nothing open"
    open_loop = np.zeros(count + 1, dtype=bool)
    open_loop[-1] = True
    loop = np.zeros(count, dtype=bool)
    for opened in order:
        parent = np.where(opened > 0, top[opened - 1], -1)
        base = lab.BASE[codes.name[opened], codes.detail[opened]]
        user = codes.name[opened] == Name.USER_STAGE
        if bool(user.any()):
            base = base.copy()
            base[user] = [user_labels.get(int(number), lab.OTHER) for number in codes.obj[opened[user]]]
        around = resolved[parent]
        inherits = (around >= lab.FIRST_SPAN) & (base < lab.FIRST_SPAN)
        inherits |= (around == lab.BACKWARD) & (codes.name[opened] == Name.FORWARD)
        inherits |= user & (base >= lab.OTHER) & (base < lab.FIRST_SPAN) & (around < lab.OTHER)
        resolved[opened] = np.where(inherits, around, base)
        loop[opened] = open_loop[parent]
        open_loop[opened] = loop[opened] & user
    return loop, resolved[top]
