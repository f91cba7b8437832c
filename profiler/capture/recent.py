"""What our own tape says of the last few steps: which stage ran when. Read back from the pages just written.

Standard library only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..record.layout import tapes
from ..record.vocabulary import HEADER_BYTES, SPANS, STAGES, Kind, Name, Optimizer

Event = tuple[int, int]  # code, value


def recent_events(directory: Path, stream: str, since_ns: int) -> list[Event]:
    """The timed events of a stream from `since_ns` on, in order. Raises OSError."""
    found: list[Event] = []
    for path in reversed(tapes(directory).get(stream, [])):
        words = memoryview(path.read_bytes()[HEADER_BYTES:]).cast("Q")
        used = bisect_left(range(len(words) // 2), True, key=lambda slot: words[2 * slot] == 0)
        for slot in range(used - 1, -1, -1):
            event_code, value = words[2 * slot], words[2 * slot + 1]
            if event_code & 0xFF == Kind.VALUE:
                continue
            if value < since_ns:
                return found[::-1]
            found.append((event_code, value))
    return found[::-1]


class StageTimes:
    """Which stage ran when, on the training thread."""

    def __init__(self, events: Iterable[Event]) -> None:
        starts: list[int] = []
        stages: list[str] = []
        stack: list[int] = []
        for event_code, time_ns in events:
            kind, name = event_code & 0xFF, event_code >> 8 & 0xFFFF
            if kind == Kind.PUSH:
                stack.append(name)
            elif kind == Kind.POP:
                while stack and stack.pop() != name:
                    pass
            else:
                continue
            starts.append(time_ns)
            stages.append(_stage(stack))
        _give_losses_to_forward(stages)
        self._starts = starts
        self._stages = stages

    def at(self, time_ns: int) -> str:
        """The stage at a time of `perf_counter_ns`; "other" where none ran."""
        index = bisect_right(self._starts, time_ns) - 1
        return self._stages[index] if index >= 0 else "other"


def _give_losses_to_forward(stages: list[str]) -> None:
    """A loss that no module computes runs between forward and backward, maybe around a zero_grad."""
    for at, stage in enumerate(stages):
        if stage != "backward":
            continue
        back = at - 1
        while back >= 0 and stages[back] in ("other", "optimizer"):
            back -= 1
        if back >= 0 and stages[back] == "forward":
            stages[back + 1 : at] = ["forward" if word == "other" else word for word in stages[back + 1 : at]]


def _stage(stack: Sequence[int]) -> str:
    if not stack:
        return "other"
    return STAGES.get(stack[-1]) or SPANS.get(stack[-1]) or "other"


def count_steps(events: Iterable[Event]) -> int:
    """Training steps among the events: the user's marks, else the steps of the optimizer that steps least."""
    marks = 0
    steps: dict[int, int] = {}
    for event_code, _ in events:
        kind, name, argument = event_code & 0xFF, event_code >> 8 & 0xFFFF, event_code >> 24
        if kind == Kind.MARK and name == Name.STEP:
            marks += 1
        elif kind == Kind.POP and name == Name.OPTIMIZER and argument & 0xFF == Optimizer.STEP:
            number = argument >> 8 & 0xFFFF
            steps[number] = steps.get(number, 0) + 1
    return marks or min(steps.values(), default=0)
