"""What the names of host events say of a training.

In:  names of operators, ranges and collectives' ranges, as torch and its libraries give them.
Out: what they stand for.
"""

from __future__ import annotations

import re
from functools import lru_cache

STEP = re.compile(r"^ProfilerStep\s*#\s*(\d+)$")
_DATA = re.compile(r"^enumerate\((DataLoader|DataPipe)\)#(?P<iterator>[\w.]*)|train_dataloader_next$")
_USERS_DATA = re.compile(
    r"^[\W_]*((get|next|load|fetch|read)[_ ]?(next[_ ]?)?(data|batch|batches|minibatch)|"
    r"data[_ ]?(loader|load|loading|fetch|wait)|batch[_ ]?(load|loading|fetch|generation))[\W_]*$",
    re.IGNORECASE,
)
_OPTIMIZER = re.compile(r"^Optimizer\.(?P<what>step|zero_grad)#(?P<name>[\w.<>]+?)(\.(step|zero_grad))?$")
_NODE = re.compile(
    r"^(autograd::engine::evaluate_function: |torch::autograd::AccumulateGrad|torch::autograd::CppNode<|<backward op>)|"
    r"Backward\d*$|^torch::jit::.*DifferentiableGraphBackward"
)
_FORWARD = re.compile(r"forward|(?<![a-z])(fwd|model|loss)(?![a-z])|compiled", re.IGNORECASE)
_WHOLE_FORWARD = re.compile(r"^\W*(forward|fwd)([ _-]?pass)?\W*$", re.IGNORECASE)
_HOST_COLLECTIVE = re.compile(r"^(gloo|mpi|ucc):")


@lru_cache(maxsize=1 << 16)
def step_number(name: str) -> int | None:
    """The number of a step that the profiler's own mark names."""
    found = STEP.match(name)
    return int(found[1]) if found else None


@lru_cache(maxsize=1 << 16)
def takes_batch(name: str) -> str | None:
    """The iterator's class where a range is the take of a batch, "" where it is not said; None for other names."""
    found = _DATA.search(name)
    return (found["iterator"] or "").split(".")[0] if found else None


@lru_cache(maxsize=1 << 16)
def users_batch(name: str) -> bool:
    """Whether a range of the user's own is the take of a batch, by a name that means nothing else: `get_batch`."""
    return _USERS_DATA.match(name) is not None


@lru_cache(maxsize=1 << 16)
def optimizer_call(name: str) -> tuple[str, str] | None:
    """("step" | "zero_grad", the optimizer's class)."""
    found = _OPTIMIZER.match(name)
    return (found["what"], found["name"]) if found else None


@lru_cache(maxsize=1 << 16)
def is_update(name: str) -> bool:
    """Whether a range is an optimizer's step."""
    return (optimizer_call(name) or ("", ""))[0] == "step"


@lru_cache(maxsize=1 << 16)
def is_gradient(name: str) -> bool:
    """Whether an operator is a node of the autograd graph as the engine runs it."""
    return _NODE.search(name) is not None


@lru_cache(maxsize=1 << 16)
def is_host_collective(name: str) -> bool:
    """Whether a range is a collective that hosts carry out themselves."""
    return _HOST_COLLECTIVE.match(name) is not None


@lru_cache(maxsize=1 << 16)
def is_forward(name: str) -> bool:
    """Whether a range that somebody marked lies around the model or its loss, compiled or not."""
    return _FORWARD.search(name) is not None


@lru_cache(maxsize=1 << 16)
def is_whole_forward(name: str) -> bool:
    """Whether a range of the user's own is the forward pass, by a name that means nothing else."""
    return _WHOLE_FORWARD.match(name) is not None


@lru_cache(maxsize=1 << 16)
def is_range(name: str) -> bool:
    """Whether an event is a range around operators by its name alone."""
    return (
        step_number(name) is not None
        or takes_batch(name) is not None
        or optimizer_call(name) is not None
        or name.startswith("## ")
    )
