"""What torch's profiler recorded, by operator, stage and thread.

In:  kineto's raw events, and which stage ran when.
Out: rows for the `operators` note.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .flops import counts, flops_of

_MOST_ROWS = 60
_MOST_THREADS = 16
_ENGINE = "autograd::engine::evaluate_function"
_UPDATE = "Optimizer.step#"
_STEP = "ProfilerStep#"

Interval = tuple[int, int, str]  # start, -length, name


@dataclass(frozen=True)
class Watched:
    """What the window saw, in values that a note can hold."""

    rows: list[dict[str, Any]]  # by operator, stage and device, most time first
    threads: list[dict[str, Any]]  # of the host, most time first
    flops: int  # in all steps, of the operators that count (`flops_of`)


def watched(events: Iterable[Any], stage_at: Callable[[int], str], steps: int) -> Watched:
    """Sum up kineto's events.

    On the CPU an operator's time is its own, without that of the operators it calls. A kernel belongs to the
    stage that launched it, whenever it ran.

    Args:
        events: as `torch.profiler` keeps them.
        stage_at: the stage at a time in ns since the epoch.
        steps: how many steps they span.
    """
    threads: dict[int, list[Interval]] = defaultdict(list)
    launches: dict[int, int] = {}
    kernels: list[tuple[str, int, int, int, str]] = []
    flops: dict[str, int] = defaultdict(int)
    for event in events:
        start_ns, length_ns, name = event.start_ns(), event.duration_ns(), event.name()
        device = str(event.device_type()).rpartition(".")[2].lower()
        if device != "cpu":
            if not _is_annotation(event):
                kernels.append((name, start_ns, length_ns, event.linked_correlation_id(), device))
        elif not event.is_async() and not name.startswith(_STEP):
            threads[event.start_thread_id()].append((start_ns, -length_ns, name))
            launches[event.correlation_id()] = start_ns
            if counts(name):
                flops[name] += flops_of(name, event.shapes(), event.concrete_inputs()) or 0
    totals: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for operators in threads.values():
        operators.sort()
        for name, middle_ns, own_ns in own_times(operators):
            total = totals[name, stage_at(middle_ns), "cpu"]
            total[0] += own_ns
            total[1] += 1
    for name, start_ns, length_ns, launch, device in kernels:
        total = totals[name, stage_at(launches.get(launch, start_ns)), device]
        total[0] += length_ns
        total[1] += 1
    rows = [
        {
            "name": name,
            "stage": stage,
            "ms_per_step": own_ns / 1e6 / steps,
            "calls_per_step": calls / steps,
            "device": device,
        }
        for (name, stage, device), (own_ns, calls) in totals.items()
    ]
    rows.sort(key=lambda row: -float(str(row["ms_per_step"])))
    return Watched(rows[:_MOST_ROWS], _threads(threads, steps), sum(flops.values()))


def _is_annotation(event: Any) -> bool:
    """A range of the host's, drawn on the device's track."""
    asked = getattr(event, "is_user_annotation", None)
    return bool(asked()) if asked is not None else False


def _threads(threads: dict[int, list[Interval]], steps: int) -> list[dict[str, Any]]:
    """How long operators ran on each thread, and what the thread is by what it ran."""
    found = []
    for operators in threads.values():
        busy_ns = until_ns = 0
        for start_ns, negative_ns, _ in operators:
            end_ns = start_ns - negative_ns
            busy_ns += max(0, end_ns - max(start_ns, until_ns))
            until_ns = max(until_ns, end_ns)
        if any(name.startswith(_UPDATE) for _, _, name in operators):
            role = "training thread"
        elif any(name.startswith(_ENGINE) for _, _, name in operators):
            role = "autograd"
        else:
            role = "other"
        found.append({"role": role, "ms_per_step": busy_ns / 1e6 / steps, "calls_per_step": len(operators) / steps})
    return sorted(found, key=lambda row: -float(str(row["ms_per_step"])))[:_MOST_THREADS]


def own_times(operators: Iterable[Interval]) -> list[tuple[str, int, int]]:
    """(name, middle, own time) of one thread's operators, given as (start, -length, name) in order.

    The middle tells the stage better than the start: torch's range around an optimizer's step begins before our
    hook runs.
    """
    done: list[tuple[str, int, int]] = []
    stack: list[list[Any]] = []  # [end, name, middle, own]
    for start_ns, negative_ns, name in operators:
        length_ns = -negative_ns
        while stack and stack[-1][0] <= start_ns:
            done.append((stack[-1][1], stack[-1][2], stack.pop()[3]))
        if stack:
            stack[-1][3] -= length_ns
        stack.append([start_ns + length_ns, name, start_ns + length_ns // 2, length_ns])
    done += [(name, middle_ns, own_ns) for _, name, middle_ns, own_ns in stack]
    return [(name, middle_ns, max(0, own_ns)) for name, middle_ns, own_ns in done]
