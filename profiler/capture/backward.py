"""Backward: `Tensor.backward`, `torch.autograd.backward` and `torch.autograd.grad`."""

from __future__ import annotations

import torch

from ..record.vocabulary import Name
from .session import Session
from .timed import timed


def install(session: Session) -> None:
    """Wrap the two entry points; `Tensor.backward` calls the first through its module."""
    for name in ("backward", "grad"):
        session.patches.replace(torch.autograd, name, timed(session, getattr(torch.autograd, name), Name.BACKWARD))
