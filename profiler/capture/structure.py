"""What a model is made of, as far as it decides how fast it can be: read once, after the third step.

By then lazy modules have their parameters, and the optimizers are known. Nothing is computed: only shapes, flags
and identities are asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from .session import Session
from .settings import seen

_READ_AT_STEP = 3
_MOST_MODULES = 20_000
_MOST_NAMES = 4
_EVEN = 8  # 16-bit matrix units take sizes that this divides


def install(session: Session) -> None:
    """Read the roots at the third step, and the compiler's counters at the end."""

    def read() -> None:
        updated = seen(session).updated()
        for number, module in seen(session).living_roots():
            values = describe(module, updated)
            if values:
                session.note("structure", id=number, values=values)

    session.on_step(read, first=_READ_AT_STEP)
    session.on_close(lambda: _note_compiler(session))


def describe(model: nn.Module, updated: set[int]) -> dict[str, Any]:
    """What decides about speed; empty for a model that is too large to walk or has no parameters.

    Args:
        model: a root module.
        updated: identities of the parameters that an optimizer holds.
    """
    modules = list(_modules(model))
    if not modules or len(modules) > _MOST_MODULES:
        return {}
    convolutions = [part for _, part in modules if isinstance(part, _ConvNd)]
    matrices = [(name, part.weight) for name, part in modules if _is_matrix(part)]
    odd = [(name, weight) for name, weight in matrices if any(size % _EVEN for size in weight.shape)]
    biased = list(_biased_before_norm(modules))
    return {
        "convolutions": len(convolutions),
        "channels_last": any(_is_channels_last(part.weight) for part in convolutions),
        "matrix_parameters": sum(weight.numel() for _, weight in matrices),
        "odd_parameters": sum(weight.numel() for _, weight in odd),
        "odd_matrices": [
            {"name": name or type(model).__name__, "shape": list(weight.shape)}
            for name, weight in sorted(odd, key=lambda row: -row[1].numel())[:_MOST_NAMES]
        ],
        "biased_before_norm": len(biased),
        "biased_before_norm_names": biased[:_MOST_NAMES],
        **_not_updated(modules, updated),
    }


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from nn.Module.named_modules(getattr(model, "_orig_mod", model))


def _has_size(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and not isinstance(tensor, nn.parameter.UninitializedTensorMixin)


def _is_matrix(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) and _has_size(part.weight)


def _is_channels_last(weight: Any) -> bool:
    """Whether a weight lies channels last, told from one that lies both ways."""
    if not _has_size(weight) or weight.dim() != 4:
        return False
    return bool(weight.is_contiguous(memory_format=torch.channels_last)) and not weight.is_contiguous()


def _biased_before_norm(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[str]:
    """Names of layers with a bias that the batch norm registered right after them takes away again."""
    for path, parent in modules:
        previous: tuple[str, nn.Module] | None = None
        for name, part in parent._modules.items():
            if part is None:
                continue
            if previous is not None and isinstance(part, _BatchNorm):
                layer = previous[1]
                size = getattr(layer, "out_channels", getattr(layer, "out_features", None))
                if getattr(layer, "bias", None) is not None and size == part.num_features:
                    yield f"{path}.{previous[0]}" if path else previous[0]
            previous = (name, part) if isinstance(part, (_ConvNd, nn.Linear)) else None


def _not_updated(modules: Iterable[tuple[str, nn.Module]], updated: set[int]) -> dict[str, Any]:
    """Parameters that get gradients although no optimizer holds them; and those before any that one holds."""
    count = before = trained = 0
    first = ""
    known: set[int] = set()
    for path, part in modules:
        for parameter in part._parameters.values():
            if parameter is None or id(parameter) in known or not _has_size(parameter) or not parameter.requires_grad:
                continue
            known.add(id(parameter))
            if id(parameter) in updated:
                trained += parameter.numel()
                continue
            count += parameter.numel()
            first = first or path.split(".")[0]
            before += parameter.numel() if not trained else 0
    if not trained or not count:
        return {}
    return {"not_updated_parameters": count, "not_updated_before": before, "not_updated_first": first}


def _note_compiler(session: Session) -> None:
    """How often the compiler compiled, where it was used."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", None) or {}
    graphs = counters.get("stats", {}).get("unique_graphs", 0)
    if not graphs:
        return
    limited = any("recompile limit" in str(reason) for reason in counters.get("unimplemented", {}))
    breaks = sum(counters.get("graph_break", {}).values())
    for name, value in (("graphs", int(graphs)), ("graph_breaks", int(breaks)), ("recompile_limit_hit", limited)):
        session.note("setting", name=f"compiled_{name}", value=value, file=None, line=None)
