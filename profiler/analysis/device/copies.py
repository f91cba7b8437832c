"""Copies between host and device, and host calls that wait for the device.

In:  names of device events and runtime calls.
Out: kinds of copies; `Blocked`: the calls that returned only once the device had caught up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from profiler.analysis.device.launches import Launches
from profiler.analysis.intervals import Bools, Intervals, Ints, union
from profiler.record.trace.recording import Calls, DeviceEvents, Work

LONG_CALL_NS = 1_000_000  # a launch takes a hundredth of it
_SYNCHRONIZES = re.compile(r"Synchronize|queueFinish|urEventWait|StreamWaitIdle|^synchronize", re.IGNORECASE)
_TO_DEVICE = re.compile(r"HtoD|H2D|M2D|Host *(\w+ *)?-> *Device|HostToDevice|Pageable -> Device|Pinned -> Device", re.I)
_TO_HOST = re.compile(r"DtoH|D2H|D2M|DeviceToHost|Device -> (Host|Pageable|Pinned)", re.IGNORECASE)
_TO_DEVICES = re.compile(r"DtoD|D2D|PtoP|P2P|Device -> Device|DeviceToDevice|PeerToPeer", re.IGNORECASE)


@lru_cache(maxsize=4096)
def copy_kind(name: str) -> str:
    """One of `device_facts.COPY_KINDS`; "" for a copy of another kind."""
    if _TO_DEVICE.search(name):
        if "ageable" in name:
            return "h2d_pageable"
        return "h2d_pinned" if "inned" in name else "h2d"
    if _TO_HOST.search(name):
        return "d2h"
    return "d2d" if _TO_DEVICES.search(name) else ""


@lru_cache(maxsize=4096)
def synchronizes(name: str) -> bool:
    """Whether a runtime call waits for the device by its name."""
    return _SYNCHRONIZES.search(name) is not None


@dataclass(frozen=True, slots=True)
class Blocked:
    """Runtime calls that returned only once the device had caught up."""

    call: Ints  # numbers of the calls
    copies: Bools  # of them, copies from pageable memory: the rest waits for results
    all: Intervals
    syncs: Intervals  # those that wait for results
    staging: Intervals  # the copies


def blocked_calls(calls: Calls, device: DeviceEvents, launches: Launches, names: tuple[str, ...]) -> Blocked:
    """Calls named so, copies to the host that outlive their copy on the device, and copies from pageable memory that
    last until it begins."""
    waits: Bools = np.isin(calls.name, [n for n in np.unique(calls.name).tolist() if synchronizes(names[n])])
    staging = np.zeros(len(calls), dtype=bool)
    copies = np.flatnonzero((device.work == Work.COPY) & (launches.call >= 0))
    kinds = {number: copy_kind(names[number]) for number in np.unique(device.name[copies]).tolist()}
    to_host, pageable = (
        copies[np.isin(device.name[copies], [number for number, kind in kinds.items() if kind in chosen])]
        for chosen in (("d2h",), ("h2d_pageable", "h2d"))
    )
    for of_kind, held, until in ((to_host, waits, device.end), (pageable, staging, device.start)):
        call = launches.call[of_kind]
        held[call[calls.end[call] >= until[of_kind]]] = True
    staging &= ~waits
    number = np.flatnonzero(waits | staging)
    return Blocked(
        call=number,
        copies=staging[number],
        all=union(calls.start[number], calls.end[number]),
        syncs=union(calls.start[waits], calls.end[waits]),
        staging=union(calls.start[staging], calls.end[staging]),
    )


def long_calls(calls: Calls, blocked: Blocked) -> Intervals:
    """Single calls of more than a millisecond that wait for no result: they load code, allocate, make streams."""
    long = calls.end - calls.start > LONG_CALL_NS
    long[blocked.call] = False
    return union(calls.start[long], calls.end[long])
