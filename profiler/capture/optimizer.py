"""Optimizer: step, zero_grad, gradient clipping, loss scaler and learning-rate scheduler."""

from __future__ import annotations

import functools
from threading import get_ident
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ..record.vocabulary import Flag, Kind, Name, code
from ..record.vocabulary import Optimizer as Detail
from .gate import Codes, short_way
from .session import Session
from .settings import describe_optimizer
from .timed import timed
from .transient import Transient

_is_compiling = torch.compiler.is_compiling


class StepCodes(Transient, Codes):  # type: ignore[misc]
    """The event codes of one optimizer's step; kept on the optimizer."""

    __slots__ = ("pop", "push", "raised")

    def __init__(self, number: int) -> None:
        self.push = code(Kind.PUSH, Name.OPTIMIZER, Detail.STEP, number)
        self.pop = code(Kind.POP, Name.OPTIMIZER, Detail.STEP, number)
        self.raised = code(Kind.POP, Name.OPTIMIZER, Detail.STEP, number, Flag.RAISED)
        self.keep(self.push, self.pop, self.raised, self.raised)


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
    """Wrap `step` of every optimizer class, and listen to torch's own global hooks.

    torch opens a `record_function` around the hooks, which takes tens of microseconds: the wrapper stands outside of
    it. The hooks see what the wrapper can't: a `step` that a scheduler bound to its optimizer before we came.
    They stay registered when an error switches us off, since torch may be iterating over them.
    """
    steps = Steps(session)
    for kind in _subclasses(Optimizer):
        steps.wrap(kind)
    original = Optimizer._patch_step_function

    @functools.wraps(original)
    def _patch_step_function(self: Optimizer) -> None:
        original(self)
        if session.active and not _is_compiling():
            try:
                for kind in type(self).__mro__:
                    steps.wrap(kind)
                session.optimizer_is_new()
            except Exception as error:
                session.fail("optimizer", error)

    session.patches.replace(Optimizer, "_patch_step_function", _patch_step_function)
    if not session.config.late:  # no optimizer is older than we are
        return
    for handle in (
        register_optimizer_step_pre_hook(steps.before),
        register_optimizer_step_post_hook(steps.after),
    ):
        session.on_end(handle.remove)


class Steps:
    """Records the steps of all optimizers of a process."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.key = session.key
        self.count = 0

    def codes(self, optimizer: Optimizer) -> StepCodes:
        """The codes kept on an optimizer; made at its first step."""
        codes: StepCodes | None = optimizer.__dict__.get(self.key)
        if codes is None:
            codes = vars(optimizer)[self.key] = StepCodes(self.count)
            describe_optimizer(self.session, self.count, optimizer)
            self.session.note_call("optimizer", Detail.STEP, depth=3)
            self.session.training_began()
            self.session.optimizer_is_new()
            self.count += 1
        return codes

    def wrap(self, kind: type) -> None:
        """Wrap the `step` that a class defines, once torch has put its hooks into it."""
        step = vars(kind).get("step")
        if getattr(step, "hooked", False) and getattr(step, "_trainprof", None) is not self.session:
            self.session.patches.replace(kind, "step", self._timed(step))

    def _timed(self, original: Any) -> Any:
        session, key, gate = self.session, self.key, self.session.gate
        record, clock = session.record, session.clock

        @functools.wraps(original)
        def step(self_: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if gate.in_step or (session.guarded and _is_compiling()):
                return original(self_, *args, **kwargs)
            if get_ident() != session.owner and not session.owns(_ANY):
                return original(self_, *args, **kwargs)
            try:
                codes = getattr(self_, key, None) or self.codes(self_)
                record((codes.push, clock()))
                gate.in_step = True
            except Exception as error:
                session.fail("optimizer", error)
                return original(self_, *args, **kwargs)
            try:
                result = original(self_, *args, **kwargs)
            except BaseException:
                gate.in_step = False
                session.write_safely(codes.raised, "optimizer")
                raise
            gate.in_step = False
            try:
                record((codes.pop, clock()))
                gate.steps += 1  # `session.stepped`, without the call
                if gate.steps >= gate.due:
                    session.call_listeners()
            except Exception as error:
                session.fail("optimizer", error)
            return result

        step._trainprof = session  # type: ignore[attr-defined]
        return short_way(session, original, step, key, is_step=True)

    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """torch's global hook before a step."""
        if self.session.gate.in_step or _is_compiling() or not self.session.active:
            return
        try:
            self.session.write(self.codes(optimizer).push)
        except Exception as error:
            self.session.fail("optimizer", error)

    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """torch's global hook after a step."""
        if self.session.gate.in_step or _is_compiling() or get_ident() != self.session.owner:
            return
        try:
            self.session.write(self.codes(optimizer).pop)
            self.session.stepped()
        except Exception as error:
            self.session.fail("optimizer", error)


_ANY = code(Kind.PUSH, Name.OPTIMIZER, Detail.STEP)


def _subclasses(kind: type) -> list[type]:
    found = [kind]
    below: type
    for below in kind.__subclasses__():
        found += _subclasses(below)
    return found
