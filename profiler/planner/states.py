"""Bytes per parameter: precision recipes and optimizers.

In:  a recipe and an optimizer by name.
Out: bytes per element of weights, gradients and optimizer states (master weights among the last).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from profiler.errors import ProfError


@dataclass(frozen=True, slots=True)
class Precision:
    """How numbers are held during training; bytes per element."""

    name: str
    weight_bytes: float
    gradient_bytes: float
    master_bytes: float  # kept by the optimizer
    activation_bytes: float  # of one element of a saved activation
    peak: str  # the number format whose peak the arithmetic can reach
    meaning: str


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("fp32", 4, 4, 0, 4, "fp32", "everything in fp32, TF32 off"),
        Precision("tf32", 4, 4, 0, 4, "tf32", "everything in fp32, matrix products in TF32"),
        Precision(
            "bf16-mixed", 2, 2, 4, 2, "bf16",
            "bf16 weights and gradients, fp32 master weights and states (bf16-autocast holds the same sum otherwise)",
        ),
        Precision(
            "bf16-autocast", 4, 4, 0, 2, "bf16",
            "torch.autocast: fp32 weights, gradients and states, matrix products in bf16",
        ),
        Precision(
            "fp16-autocast", 4, 4, 0, 2, "fp16",
            "torch.autocast: fp32 weights, gradients and states, matrix products in fp16, loss scaling",
        ),
        Precision(
            "fp16-mixed", 2, 2, 4, 2, "fp16",
            "fp16 weights and gradients, fp32 master weights and states, loss scaling",
        ),
        Precision(
            "bf16-mixed-fp32-grads", 2, 4, 4, 2, "bf16",
            "bf16 weights, fp32 gradients, master weights and states",
        ),
        Precision(
            "fp8-mixed", 4, 2, 4, 2, "fp8",
            "bf16 weights and an fp8 copy in both layouts, bf16 gradients, fp32 master weights and states; "
            "activations counted in 16 bit, an upper bound",
        ),
        Precision("bf16", 2, 2, 0, 2, "bf16", "everything in bf16, no master weights"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Optimizer:
    """States of an optimizer, in bytes per trainable parameter and without master weights."""

    name: str
    state_bytes: float
    own_fp32: bool  # its states are fp32 whatever the precision; in a pure-bf16 recipe they follow the weights
    accesses: float  # memory traffic of the states per update, in passes over them
    meaning: str


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", 0, False, 0, "no states"),
        Optimizer("momentum", 4, True, 2, "one fp32 momentum"),
        Optimizer("adam", 8, True, 2, "two fp32 moments"),
        Optimizer("adamw", 8, True, 2, "two fp32 moments"),
        Optimizer("adam8bit", 2, False, 2, "two 8-bit moments, and 1/128 of fp32 scales which is left out"),
        Optimizer("adafactor", 0.02, False, 2, "factored second moment, no first: about 1/200 of Adam's"),
        Optimizer("lion", 4, True, 2, "one fp32 momentum"),
        Optimizer("muon", 4, True, 2, "one fp32 momentum; embeddings, which use AdamW, are counted as the rest"),
    )
}

ALIASES = {"adamw8bit": "adam8bit", "adam-8bit": "adam8bit", "adamw-8bit": "adam8bit", "sgd-momentum": "momentum"}


def known_precision(name: str) -> Precision:
    """The recipe of that name. Raises ProfError with the nearest names."""
    key = name.lower()
    if key in PRECISIONS:
        return PRECISIONS[key]
    raise ProfError(_unknown("precision", name, list(PRECISIONS)))


def known_optimizer(name: str) -> Optimizer:
    """The optimizer of that name. Raises ProfError with the nearest names."""
    key = ALIASES.get(name.lower(), name.lower())
    if key in OPTIMIZERS:
        return OPTIMIZERS[key]
    raise ProfError(_unknown("optimizer", name, list(OPTIMIZERS)))


def optimizer_bytes(optimizer: Optimizer, precision: Precision) -> float:
    """Bytes per trainable parameter that the optimizer holds: its states and the master weights."""
    state = optimizer.state_bytes
    if precision.name == "bf16" and optimizer.own_fp32:
        state /= 2  # PyTorch's optimizers allocate their states in the weights' format
    return state + precision.master_bytes


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4) or known
    return f"there is no {kind} called '{name}': the nearest are {', '.join(near)} (all: {', '.join(known)})."
