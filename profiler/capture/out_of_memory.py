"""A device's memory runs out: what held it is kept, just before the error is raised.

torch calls an observer of its allocator with the failed request, holding no lock; whether the script then ends or
catches the error and goes on is the same to us. The allocator's snapshot lands beside the record. It tells lines and
categories where memory history is recorded, by the script or by our setting `memory_history`; sizes and
fragmentation always.

The observer is attached when the script initialises its device, and never initialises one itself.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch

from ..record.layout import OUT_OF_MEMORY
from .callsite import caller
from .session import Session

_MOST = 5  # failures that are kept; a script that catches each may have thousands
_HISTORY_EVENTS = 100_000


def install(session: Session) -> None:
    """Be told of failures, once the device is in use; nothing where torch has no such device."""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return
    watch = OutOfMemory(session)
    torch.cuda._lazy_call(watch.attach)
    session.on_close(watch.stop)


class OutOfMemory:
    """Keeps what the allocator held when it failed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._failures = 0
        self._history = False

    def attach(self) -> None:
        """Called by torch while it initialises the device: an error here would be the script's."""
        if not self._session.active:
            return
        try:
            torch._C._cuda_attach_out_of_memory_observer(self.failed)
            if self._session.config.memory_history:
                torch.cuda.memory._record_memory_history(
                    "all", context="alloc", stacks="python", max_entries=_HISTORY_EVENTS
                )
                self._history = True
        except Exception as error:
            self._session.note("unobserved", what="out of memory", why=f"torch would not tell of it: {error}")

    def failed(self, device: int, requested: int, capacity: int, free: int) -> None:
        """Called by the allocator: an error here would take the place of the one that it is about to raise."""
        session = self._session
        if not session.active or self._failures >= _MOST:
            return
        self._failures += 1
        try:
            session.note(
                "out_of_memory",
                device=int(device),
                requested_bytes=int(requested),
                capacity_bytes=int(capacity),
                free_bytes=int(free),
                **(caller() or {}),
            )
            _keep(torch.cuda.memory._snapshot(), str(session.folder() / OUT_OF_MEMORY))
        except Exception as error:
            session.note("unobserved", what="out of memory", why=f"its snapshot could not be kept: {error}")

    def stop(self) -> None:
        """An observer can't be taken away: it does nothing from here on."""
        if self._history:
            self._history = False
            torch.cuda.memory._record_memory_history(None)


def _keep(snapshot: Any, path: str) -> None:
    """The last one, whole."""
    partial = f"{path}.partial"
    with open(partial, "wb") as file:  # noqa: PTH123 -- no pathlib on this path
        pickle.dump(snapshot, file, protocol=4)
    os.replace(partial, path)  # noqa: PTH105
