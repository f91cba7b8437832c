"""Names of kernels, copies and idle causes as people read them."""

from __future__ import annotations

import re

from profiler.report.wording import label, printable

LONGEST = 90
IDLE = {
    "host": "idle: host late",
    "sync": "idle: synchronization",
    "data_wait": "idle: data wait",
    "copy": "idle: copy",
    "communication": "idle: communication",
    "unknown": "idle: cause not known",
}
COPIES = {
    "h2d_pageable": "host to device, pageable",
    "h2d_pinned": "host to device, pinned",
    "h2d": "host to device",
    "d2h": "device to host",
    "d2d": "device to device",
}
FAMILIES = {"gemm": "GEMM", "elementwise": "element-wise"}


def family(name: str) -> str:
    """A family of kernels."""
    return FAMILIES.get(name) or label(name)


def copy(name: str) -> str:
    """A kind of copy."""
    return COPIES.get(name) or label(name)


def idle(name: str) -> str:
    """A cause of idle time, as the name of a piece of the bar."""
    return IDLE.get(name) or f"idle: {label(name)}"


def kernel(name: str) -> str:
    """A kernel's name without return type and arguments, of its angle brackets only what tells it; not too long."""
    text = printable(name).removeprefix("void ").replace("(anonymous namespace)::", "").strip()
    kept: list[str] = []
    inside: list[str] = []
    depth, before = 0, ""
    for character in text:
        depth -= character == ">" and depth > 0 and before != "-"
        if depth == 0 and character == "(" and before not in ("", " "):
            break  # the arguments
        (inside if depth else kept).append(character)
        if character == "<":
            depth += 1
            kept.append("\0" if depth == 1 else "")
        before = character
    short = "".join(kept).replace("\0", f"{_told_by(''.join(inside))}…") or text
    return short if len(short) <= LONGEST else f"{short[: LONGEST - 1]}…"


def _told_by(arguments: str) -> str:
    """The first name among template arguments that is no type or wrapper: the functor of an element-wise kernel."""
    return next((word for word in _WORD.findall(arguments) if word not in _WRAPPERS), "")


_WORD = re.compile(r"[A-Za-z_]\w{6,}")
_WRAPPERS = frozenset(
    {
        "AUnaryFunctor", "BUnaryFunctor", "BinaryFunctor", "binary_internal", "OffsetCalculator", "LoadWithCast",
        "LoadWithoutCast", "StoreWithCast", "TensorListMetadata", "TensorInfo", "BFloat16", "gpu_kernel_impl",
        "gpu_kernel_impl_nocast", "unsigned", "operator", "constant", "integral_constant", "unknown_type", "fbgemm_gpu",
        "__nv_bfloat16", "DeviceRadixSortPolicy", "cudnnKernelDataType_t",
    }
)  # fmt: skip
