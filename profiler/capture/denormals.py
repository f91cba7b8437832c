"""Denormal numbers in what an optimizer holds, on the CPU: looked for after 256 steps, and twice as late each time.

Numbers below about 1e-38 are computed on a slow path by most CPUs. They come by themselves: a moment that gets no
gradient any more fades by a factor a step, and stays denormal for good. Of each tensor a few thousand numbers are
looked at; where they are denormal, the same multiplication is timed on a copy of them and on ordinary numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import get_ident
from typing import Any

import torch

from ..record.vocabulary import Instrument, Kind, Name, code
from .session import Session
from .settings import seen

_FIRST_STEP = 256
_LAST_STEP = 1 << 20
_MOST_TENSORS = 64
_NUMBERS = 4096
_TIMED = 131_072
_TIMES = 5
_MOST_EXAMPLES = 8
_SHARE = 0.02  # of the numbers of one kind of state, from which it is noted

_PUSH = code(Kind.PUSH, Name.INSTRUMENT, Instrument.DENORMALS)
_POP = code(Kind.POP, Name.INSTRUMENT, Instrument.DENORMALS)


def install(session: Session) -> None:
    """Look now and then, if the session looks deep."""
    if not session.config.deep:
        return

    def look() -> int | None:
        if session.owner != get_ident():
            return session.steps + 1
        device = seen(session).device
        if device is None or device.type != "cpu" or session.steps >= _LAST_STEP:
            return None
        session.write(_PUSH)
        try:
            found = _worst_state(session)
            if found is not None:
                name, share, examples = found
                value = {"state": name, "share": share, "slowdown": _slowdown(examples, _all_fused(session))}
                session.note("setting", name="denormals", value=value, file=None, line=None)
        finally:
            session.write(_POP)
        return 2 * session.steps

    session.on_step(look, first=_FIRST_STEP)


def is_denormal(numbers: torch.Tensor) -> torch.Tensor:
    """Which of them are denormal; told by their bits, since arithmetic may flush them."""
    exponent = numbers.view(torch.int32).bitwise_and(0x7F800000)
    fraction = numbers.view(torch.int32).bitwise_and(0x007FFFFF)
    return (exponent == 0) & (fraction != 0)


def _all_fused(session: Session) -> bool:
    """Whether every optimizer is an Adam that updates in one operator."""
    optimizers = seen(session).living_optimizers()
    return all(
        type(it) in (torch.optim.Adam, torch.optim.AdamW) and all(group.get("fused") for group in it.param_groups)
        for it in optimizers
    )


def _worst_state(session: Session) -> tuple[str, float, torch.Tensor] | None:
    """The kind of state with the largest share of denormal numbers: its name, that share, and some of the numbers."""
    found: dict[str, tuple[float, float, list[torch.Tensor]]] = {}
    for name, tensor in _largest(session):
        numbers = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // _NUMBERS)].contiguous()
        bad = is_denormal(numbers)
        held, denormal, examples = found.get(name, (0.0, 0.0, []))
        found[name] = (
            held + tensor.numel(),
            denormal + tensor.numel() * int(bad.sum()) / len(numbers),
            [*examples, numbers[bad]][:_MOST_EXAMPLES],
        )
    shares = {name: denormal / held for name, (held, denormal, _) in found.items()}
    worst = max(shares, key=shares.__getitem__, default=None)
    if worst is None or shares[worst] < _SHARE:
        return None
    return worst, shares[worst], torch.cat(found[worst][2])


def _largest(session: Session) -> list[tuple[str, torch.Tensor]]:
    found = [(name, tensor) for name, tensor in _states(session) if _is_plain(tensor)]
    return sorted(found, key=lambda row: -row[1].numel())[:_MOST_TENSORS]


def _states(session: Session) -> Iterator[tuple[str, Any]]:
    for optimizer in seen(session).living_optimizers():
        for state in list(optimizer.state.values()):
            if isinstance(state, dict):
                yield from ((str(name), value) for name, value in state.items())


def _is_plain(tensor: Any) -> bool:
    kinds = (torch.Tensor, torch.nn.Parameter)
    return type(tensor) in kinds and tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.numel() > 1


def _slowdown(denormals: torch.Tensor, fused: bool) -> float:
    """How many times as long an update of such numbers takes as one of ordinary numbers, on copies.

    Args:
        denormals: some of them.
        fused: whether Adam updates in one fused operator, which meets them in another way than plain operators.
    """
    slow = denormals.repeat(_TIMED // len(denormals) + 1)[:_TIMED].clone()
    usual = torch.full((_TIMED,), 0.01)
    best = [min(_update_ns(numbers, fused) for _ in range(_TIMES)) for numbers in (slow, usual)]
    return best[0] / max(1, best[1])


def _update_ns(moment: torch.Tensor, fused: bool) -> int:
    parameter, gradient, square = torch.ones(_TIMED), torch.zeros(_TIMED), torch.full((_TIMED,), 1e-6)
    copied = moment.clone()
    began = time.perf_counter_ns()
    if fused:
        torch._fused_adam_(
            [parameter], [gradient], [copied], [square], [], [torch.ones(())],
            lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip
    else:
        copied.mul_(0.9).add_(gradient)
    return time.perf_counter_ns() - began
