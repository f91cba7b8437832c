"""Spans of the run: saving and loading of checkpoints, and compilation."""

from __future__ import annotations

import sys
from typing import Any

import torch

from ..record.vocabulary import Checkpoint, Kind, Name, code
from .imports import when_imported
from .session import Session
from .timed import timed


def install(session: Session) -> None:
    """Wrap `torch.save` and `torch.load`, their kin once imported, and listen to the compiler."""
    replace = session.patches.replace
    replace(torch, "save", timed(session, torch.save, Name.CHECKPOINT, Checkpoint.SAVE))
    replace(torch, "load", timed(session, torch.load, Name.CHECKPOINT, Checkpoint.LOAD))
    for module, names in _KIN.items():
        session.on_close(when_imported(module, _wrap_kin(session, names)))
    session.on_close(when_imported("torch._dynamo.callback", _listen_to_compiler(session)))


_KIN: dict[str, dict[str, int]] = {
    "safetensors.torch": {
        "save_file": Checkpoint.SAVE,
        "save_model": Checkpoint.SAVE,
        "load_file": Checkpoint.LOAD,
    },
    "torch.distributed.checkpoint": {"save": Checkpoint.SAVE, "load": Checkpoint.LOAD},
}


def _wrap_kin(session: Session, names: dict[str, int]) -> Any:
    def wrap(module: Any) -> None:
        for name, detail in names.items():
            if session.active and hasattr(module, name):
                session.patches.replace(module, name, timed(session, getattr(module, name), Name.CHECKPOINT, detail))

    return wrap


def _listen_to_compiler(session: Session) -> Any:
    push, pop = code(Kind.PUSH, Name.COMPILE), code(Kind.POP, Name.COMPILE)

    def listen(module: Any) -> None:
        handler = getattr(module, "callback_handler", None)
        if handler is None or not session.active:
            return

        def started(*args: Any) -> None:
            session.write_safely(push, "compile")

        def ended(*args: Any) -> None:
            session.write_safely(pop, "compile")

        handler.register_start_callback(started)
        handler.register_end_callback(ended)
        session.on_end(lambda: handler.remove_start_callback(started))
        session.on_end(lambda: handler.remove_end_callback(ended))

    return listen


def dynamo_is_loaded() -> bool:
    """Whether the compiler was imported; we never import it ourselves."""
    return "torch._dynamo" in sys.modules
