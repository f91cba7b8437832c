"""Host to device: copies of tensors from the CPU to an accelerator by `.to(…)` and `.cuda()`.

Installed only where torch was built for an accelerator: on a CPU build there is nothing to copy to, and no
call pays for us. Whether a device exists is never asked here: asking would initialise it before a fork.
"""

from __future__ import annotations

import functools
from threading import get_ident
from typing import Any

import torch

from ..record.vocabulary import Flag, Kind, Name, code
from .session import Session

_PUSH = code(Kind.PUSH, Name.HOST_TO_DEVICE)
_POP = code(Kind.POP, Name.HOST_TO_DEVICE)
_RAISED = code(Kind.POP, Name.HOST_TO_DEVICE, flags=Flag.RAISED)

_is_compiling = torch.compiler.is_compiling


def has_accelerator_build() -> bool:
    """Whether this torch could use an accelerator at all."""
    return bool(
        torch.version.cuda or torch.version.hip or getattr(torch.version, "xpu", None) or torch.backends.mps.is_built()
    )


def install(session: Session) -> None:
    """Wrap `Tensor.to` and the like for tensors that live on the CPU."""
    if not has_accelerator_build():
        return
    for name in ("to", "cuda", "xpu"):
        if hasattr(torch.Tensor, name):
            session.patches.replace(torch.Tensor, name, _timed(session, getattr(torch.Tensor, name), name))


def leaves_cpu(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether `tensor.<name>(*args, **kwargs)` of a CPU tensor goes to another device."""
    if name != "to":
        return True
    target = kwargs.get("device", args[0] if args else kwargs.get("other"))
    if isinstance(target, torch.Tensor):
        return not bool(target.is_cpu)
    if isinstance(target, str):
        return not target.startswith("cpu")
    if isinstance(target, torch.device):
        return bool(target.type != "cpu")
    return isinstance(target, int) and not isinstance(target, bool)


def _timed(session: Session, original: Any, name: str) -> Any:
    record, clock = session.record, session.clock
    noted = False

    @functools.wraps(original)
    def copy(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal noted
        if not self.is_cpu or not leaves_cpu(name, args, kwargs) or (session.guarded and _is_compiling()):
            return original(self, *args, **kwargs)
        if get_ident() != session.owner and not session.owns(_PUSH):
            return original(self, *args, **kwargs)
        try:
            if not noted and session.steps:  # before the first step's end it may be the model that moves
                noted = True
                session.note_call("host_to_device", 0)
            record((_PUSH, clock()))
        except Exception as error:
            session.fail("host-to-device copy", error)
        try:
            result = original(self, *args, **kwargs)
        except BaseException:
            session.write_safely(_RAISED, "host-to-device copy")
            raise
        session.write_safely(_POP, "host-to-device copy")
        return result

    return copy
