"""Optimizer: step, zero_grad, gradient clipping, loss scaler and learning-rate scheduler."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ..record.vocabulary import Kind, Name, code
from ..record.vocabulary import Optimizer as Detail
from .session import Session
from .settings import describe_optimizer
from .timed import timed
from .transient import Transient

_is_compiling = torch.compiler.is_compiling


class StepCodes(Transient):
    """The event codes of one optimizer's step; kept on the optimizer."""

    __slots__ = ("pop", "push")

    def __init__(self, number: int) -> None:
        self.push = code(Kind.PUSH, Name.OPTIMIZER, Detail.STEP, number)
        self.pop = code(Kind.POP, Name.OPTIMIZER, Detail.STEP, number)


def install(session: Session) -> None:
    """Hook every optimizer of torch's base class, and what stands around its step."""
    _install_step(session)
    replace = session.patches.replace
    replace(Optimizer, "zero_grad", timed(session, Optimizer.zero_grad, Name.OPTIMIZER, Detail.ZERO_GRAD))
    replace(
        torch.nn.Module,
        "zero_grad",
        timed(session, torch.nn.Module.zero_grad, Name.OPTIMIZER, Detail.ZERO_GRAD),
    )
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        clip = timed(session, getattr(torch.nn.utils, name), Name.OPTIMIZER, Detail.CLIP)
        replace(torch.nn.utils, name, clip)
        replace(torch.nn.utils.clip_grad, name, clip)
    for name in ("unscale_", "step", "update"):
        scaler = torch.amp.GradScaler
        replace(scaler, name, timed(session, getattr(scaler, name), Name.OPTIMIZER, Detail.SCALER))
    for scheduler in vars(lr_scheduler).values():
        if isinstance(scheduler, type) and "step" in vars(scheduler):
            replace(scheduler, "step", timed(session, vars(scheduler)["step"], Name.OPTIMIZER, Detail.SCHEDULER))


def _install_step(session: Session) -> None:
    """torch's own global hooks: they fire for every optimizer, also for those made before us.

    They stay registered when an error switches us off, since torch may be iterating over them.
    """
    write = session.write
    stepped = session.stepped
    key = session.key
    count = 0

    def number(optimizer: Optimizer) -> StepCodes:
        nonlocal count
        codes = vars(optimizer)[key] = StepCodes(count)
        describe_optimizer(session, count, optimizer)
        session.note_call("optimizer", Detail.STEP, depth=3)
        count += 1
        return codes

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if _is_compiling() or not session.active:
            return
        try:
            write((optimizer.__dict__.get(key) or number(optimizer)).push)
        except Exception as error:
            session.fail("optimizer", error)

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if _is_compiling() or not session.active:
            return
        try:
            write((optimizer.__dict__.get(key) or number(optimizer)).pop)
            stepped()
        except Exception as error:
            session.fail("optimizer", error)

    for handle in (register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)):
        session.on_end(handle.remove)
