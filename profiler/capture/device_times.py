"""Stage times on the device's own clock, of some of the steps.

Where the host only queues work, its clock tells when work was queued, not when it was done. So during a *window* of a
few steps each event that the hooks record (the start or end of a stage) also queues an event on the device. When the
device has reached them all, which is asked at the end of a later step and never waited for, the tape called "device"
gets the window: the host's time of each boundary, which names it, and the device's time since the window's first.

Outside of windows the hooks know nothing of this, and without an accelerator there is never a window. What a
window costs (its events, and reading them) is timed, and the next one waits until 200 times that has gone by: at most
0.5 % of the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..record.tape import Tape
from ..record.vocabulary import DeviceEvent, Kind, Name, code
from .device_clock import DeviceClock, open_clock
from .session import Session
from .settings import seen

COMPLETE_STEPS = 4  # per window; one round of the optimizers more is timed, since steps begin between its ends
BUDGET = 1 / 200  # of the run's time
_FIRST_STEP = 3
_MOST_BOUNDARIES = 4096
_DEVICE_TRIES = 16
_MOST_UNREAD = 4  # windows that the device has not finished
_LONGEST_REST_STEPS = 4096

_BOUNDARY = code(Kind.MARK, Name.DEVICE_EVENT)
_FIRST = code(Kind.MARK, Name.DEVICE_EVENT, DeviceEvent.FIRST)
_LAST = code(Kind.MARK, Name.DEVICE_EVENT, DeviceEvent.LAST)
_NS = code(Kind.VALUE, Name.DEVICE_NS)


def install(session: Session, clock_of: Callable[[torch.device], DeviceClock | str] | None = None) -> None:
    """Wait for the first steps: by then the parameters say on which device the training runs."""
    times = DeviceTimes(session, clock_of or open_clock)
    session.on_step(times.on_step, first=_FIRST_STEP)
    session.on_close(times.close)


@dataclass(slots=True)
class Window:
    """Boundaries in order: host times in ns, and the device's events."""

    host_ns: list[int] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    cost_ns: int = 0
    whole: bool = True  # no boundary of it was left out


class DeviceTimes:
    """Opens windows, reads them once the device is through, and keeps to its budget."""

    def __init__(self, session: Session, clock_of: Callable[[torch.device], DeviceClock | str]) -> None:
        self._session = session
        self._clock_of = clock_of
        self._clock: DeviceClock | None = None
        self._tape: Tape | None = None
        self._process = os.getpid()
        self._over = False
        self._open: Window | None = None
        self._unread: list[Window] = []
        self._tries = 0
        self._read = 0
        self._cost_ns = 0
        self._at: tuple[int, int] = (0, 0)  # step and time of the last look
        self._rest_until_ns = 0

    def on_step(self) -> int | None:
        """Listens to optimizer steps; returns the next one of interest, None when there is nothing to time."""
        if self._over or os.getpid() != self._process:
            return None
        try:
            clock = self._clock or self._find_clock()
            if isinstance(clock, int) or clock is None:
                return clock
            return self._advance(clock)
        except Exception as error:
            self._give_up(_failed(error))
            return None

    def _find_clock(self) -> DeviceClock | int | None:
        """The clock; the step at which to ask again; None when there is none."""
        session = self._session
        device = training_device(session)
        if device is None:
            self._tries += 1
            return session.steps + 1 if self._tries < _DEVICE_TRIES else None
        if isinstance(device, torch.device) and device.type == "cpu":
            return None
        clock = device if isinstance(device, str) else self._clock_of(device)
        if isinstance(clock, str):
            self._give_up(clock)
            return None
        self._clock = clock
        self._tape = session.stream("device")
        return clock

    def _advance(self, clock: DeviceClock) -> int:
        session = self._session
        steps, now_ns = session.steps, session.clock()
        step_ns = max(1, (now_ns - self._at[1]) // max(1, steps - self._at[0]))
        self._at = (steps, now_ns)
        self._close_window()
        if not clock.usable():
            return steps + 1
        self._read_windows(clock)
        rest_ns = self._rest_until_ns - now_ns
        if rest_ns > 0:
            return steps + max(1, min(_LONGEST_REST_STEPS, rest_ns // step_ns))
        if len(self._unread) >= _MOST_UNREAD:
            return steps + 1
        self._open = window = Window()
        self._rest_until_ns = max(self._rest_until_ns, now_ns)
        self._use(_timing(session, clock, window, self._give_up))
        rounds = max(1, len(seen(session).living_optimizers()))
        return steps + (COMPLETE_STEPS + 1) * rounds

    def _close_window(self) -> None:
        window, self._open = self._open, None
        if window is None:
            return
        self._use(None)
        self._spent(window.cost_ns)
        if window.whole and len(window.events) > 1:
            self._unread.append(window)

    def _use(self, record: Callable[[tuple[int, int]], None] | None) -> None:
        began_ns = self._session.clock()
        self._session.use_record(record)
        self._spent(self._session.clock() - began_ns)

    def _spent(self, cost_ns: int) -> None:
        self._cost_ns += cost_ns
        self._rest_until_ns += round(cost_ns / BUDGET)

    def _read_windows(self, clock: DeviceClock) -> None:
        """Write the windows that the device is through with, oldest first."""
        while self._unread and self._tape is not None:
            began_ns = self._session.clock()
            window = self._unread[0]
            done = all(clock.query(event) for event in reversed(window.events))
            if done:
                self._unread.pop(0)
                self._tape.write_words(_words(clock, window))
                clock.give_back(window.events)
                self._read += 1
            self._spent(self._session.clock() - began_ns)
            if not done:
                return

    def _give_up(self, why: str) -> None:
        """No more device times; what was read so far stays, and the recording goes on."""
        self._over = True
        self._session.use_record(None)
        self._open = None
        if not self._read:
            self._session.note("unobserved", what="device times", why=why)

    def close(self) -> None:
        """The session ends: read what is there to be read."""
        clock = self._clock
        if clock is None or os.getpid() != self._process:
            return
        self._close_window()
        if not self._over and clock.usable():
            self._read_windows(clock)
        self._over = True
        if self._session.steps:
            self._session.note(
                "device_clock", windows=self._read, us_per_step=self._cost_ns / 1e3 / self._session.steps
            )


def _timing(
    session: Session, clock: DeviceClock, window: Window, give_up: Callable[[str], None]
) -> Callable[[tuple[int, int]], None]:
    """`session.record` during a window."""
    plain, now = session.plain_record, session.clock
    host_ns, events = window.host_ns, window.events

    def record(event: tuple[int, int]) -> None:
        plain(event)
        if event[0] & 0xFF > Kind.MARK or not window.whole:  # a pause is no boundary
            return
        try:
            if len(events) >= _MOST_BOUNDARIES or not clock.usable():
                window.whole = False
                return
            events.append(clock.record())
            host_ns.append(event[1])
            window.cost_ns += now() - event[1]
        except Exception as error:
            window.whole = False
            give_up(_failed(error))

    return record


def _words(clock: DeviceClock, window: Window) -> list[int]:
    """A window as it stands on the tape. A boundary counts as reached once all before it are."""
    words: list[int] = []
    reached_ns = 0
    last = len(window.events) - 1
    for at, (host_ns, event) in enumerate(zip(window.host_ns, window.events, strict=True)):
        if at:
            reached_ns = max(reached_ns, clock.elapsed_ns(window.events[0], event))
        words += (_FIRST if at == 0 else _LAST if at == last else _BOUNDARY, host_ns, _NS, reached_ns)
    return words


def _failed(error: Exception) -> str:
    return f"the device's events failed ({type(error).__name__}: {error})"


def training_device(session: Session) -> torch.device | str | None:
    """The device that holds the optimizers' parameters; why there is not one; None while that is not known."""
    found = {
        tensor.device
        for optimizer in seen(session).living_optimizers()
        for group in optimizer.param_groups
        for tensor in group["params"]
        if tensor.device.type != "meta"
    }
    accelerators = {device for device in found if device.type != "cpu"}
    if len(accelerators) > 1:
        return "the parameters are on several devices, each with a clock of its own"
    return next(iter(accelerators or found), None)
