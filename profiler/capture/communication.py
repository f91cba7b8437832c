"""Communication between ranks: nothing of this runs in a training that joins no process group.

The functions of `torch.distributed` are wrapped from the start, since a script takes names from it before it joins;
what they are built on is wrapped when it does.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import distributed

from . import collectives, ddp, functional, point_to_point
from .imports import when_imported
from .session import Session
from .traffic import Traffic, note_rank


def install(session: Session) -> None:
    """Watch the process join its group, and its collectives from then on."""
    if not distributed.is_available():
        return
    traffic = Traffic(session)
    collectives.install(session, traffic)
    ddp.install(session, traffic)
    joined = False

    def join() -> None:
        nonlocal joined
        note_rank(session)
        if not joined:
            joined = True
            collectives.install_waits(session, traffic)
            point_to_point.install(session, traffic)
            session.on_close(when_imported("torch.distributed._functional_collectives", watch_functional))

    def watch_functional(module: Any) -> None:
        if session.active:
            functional.install(session, traffic, module)

    _after(session, "init_process_group", join)
    _after(session, "destroy_process_group", traffic.forget_groups)
    if distributed.is_initialized():
        join()


def _after(session: Session, name: str, action: Any) -> None:
    """Have `action` follow each call of a function of `torch.distributed`."""
    defined = distributed.distributed_c10d
    original = getattr(defined, name)

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if session.active:
            try:
                action()
            except Exception as error:
                session.fail(name, error)
        return result

    for owner in (defined, distributed):
        session.patches.replace(owner, name, function)
