"""Where an allocation came from, by its stack.

In:  the frames of a stack, innermost first.
Out: `Origin`: what kind of code asked, in which stage, and the user's line.

torch's own files say which part of a step runs. Autograd calls kernels from a thread of its own, on whose stack
there is no Python at all, or only torch's, where a function or a checkpoint has a Python backward.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from profiler.analysis.site import Site
from profiler.record.snapshot import Frame

OPTIMIZER, CLIP, BACKWARD, ACCUMULATE, RECOMPUTE = "optimizer", "clip", "backward", "accumulate", "recompute"
FORWARD, CONSTRUCT, LOAD, COLLECTIVE, COPY, LOOP = "forward", "construct", "load", "collective", "copy", "loop"
GATHER, REDUCE = "gather", "reduce"  # parameters and gradients that FSDP collects and spreads
BARE, MISSING = "bare", "missing"  # no Python on the stack; no stack

STAGES = {
    OPTIMIZER: "optimizer",
    CLIP: "optimizer",
    BACKWARD: "backward",
    ACCUMULATE: "backward",
    RECOMPUTE: "backward",
    FORWARD: "forward",
    CONSTRUCT: "startup",
    LOAD: "startup",
    COLLECTIVE: "communication",
    GATHER: "communication",
    REDUCE: "communication",
    COPY: "host_to_device",
    LOOP: "other",
}

_LIBRARY = re.compile(
    r"(^|/)(site-packages|dist-packages|torch|torchinductor[^/]*|lib/python3[^/]*|torch_compile_debug)/"
    r"|^<(frozen|eval_with_key|__array_function__)|/importlib/"
)
_MOVES = frozenset(
    {"to", "_apply", "convert", "cuda", "half", "float", "double", "bfloat16", "type", "to_empty", "xpu"}
)
_LOADS = frozenset({"load_state_dict", "_load_from_state_dict"})
_BUILDS = frozenset({"__init__", "reset_parameters", "__setattr__", "register_parameter", "register_buffer"})
_FSDP = re.compile(r"unshard|all_gather|_alloc_|(?P<reduce>reduce)")


@dataclass(frozen=True, slots=True)
class Origin:
    """What asked for memory."""

    kind: str
    stage: str  # "" where the stack does not tell
    site: Site | None
    function: str  # of torch's, innermost
    python: bool  # there is Python on the stack


NOTHING = Origin(MISSING, "", None, "", False)


def origin(frames: Sequence[Frame]) -> Origin:
    """What a stack says; the innermost frame that tells anything decides."""
    python = [frame for frame in frames if is_python(frame.file)]
    native = [frame.function for frame in frames if not is_python(frame.file)]
    kind = _kind(python, native)
    site = next((Site(f.file, f.line, f.function) for f in python if not is_library(f.file)), None)
    asked = next((_dotted(f) for f in python if is_library(f.file)), "")
    return Origin(kind, STAGES.get(kind, ""), site, asked, bool(python))


def is_python(file: str) -> bool:
    """Whether a frame is one of Python's, and not of C++."""
    return file.endswith(".py") or (file.startswith("<") and file.endswith(">")) or "ipykernel" in file


def is_library(file: str) -> bool:
    """Whether a file is torch's, another package's or Python's own."""
    return _LIBRARY.search(file.replace("\\", "/")) is not None


def _kind(python: Sequence[Frame], native: Sequence[str]) -> str:
    if any("AccumulateGrad" in name for name in native):
        return ACCUMULATE
    if not python:
        return BACKWARD if any("torch::autograd::" in name for name in native) else BARE
    files = [frame.file.replace("\\", "/") for frame in python]
    outermost = files[-1]
    in_backward = "/torch/" in f"/{outermost}" and is_library(outermost)
    for file, frame in zip(files, python, strict=True):
        kind = _of_frame(f"/{file}", frame.function)
        if kind == FORWARD and in_backward:
            return RECOMPUTE if any("torch/utils/checkpoint" in each for each in files) else BACKWARD
        if kind is not None:
            return kind
    if in_backward:
        return BACKWARD
    return COPY if any("_to_copy" in name for name in native) else LOOP


def _of_frame(file: str, function: str) -> str | None:
    if "/torch/" not in file:
        if "torchinductor" in file or function == "forward":
            return FORWARD
        return OPTIMIZER if function in ("step", "_init_group") and re.search(r"optim|adam", file) else None
    part = file.rsplit("/torch/", 1)[1]
    if part.startswith("optim/") or function == "zero_grad":
        return OPTIMIZER
    if part.startswith(("nn/utils/clip_grad", "amp/", "cuda/amp/")):
        return CLIP
    if part.startswith("autograd/"):
        return BACKWARD if function in ("backward", "grad", "_engine_run_backward") else None
    if part.startswith("serialization"):
        return LOAD
    if part.startswith(("distributed/", "nn/parallel/distributed")):
        if "fsdp" in part and (gathers := _FSDP.search(function)):
            return REDUCE if gathers["reduce"] else GATHER
        return (
            None if function in ("forward", "_run_ddp_forward", "inner", "wrapper", "decorate_context") else COLLECTIVE
        )
    return _of_modules(part, function)


def _of_modules(part: str, function: str) -> str | None:
    if part.startswith(("nn/init", "nn/parameter")):
        return CONSTRUCT
    if part.startswith("nn/modules/module"):
        if function in _MOVES or function in _LOADS:
            return CONSTRUCT
        return FORWARD if "call_impl" in function else None
    if part.startswith(("nn/modules/", "nn/utils/parametri")) and function in _BUILDS:
        return CONSTRUCT
    if part.startswith(("nn/", "_functorch/", "_dynamo/", "_inductor/")):
        return FORWARD
    return None


def _dotted(frame: Frame) -> str:
    """`torch.nn.modules.linear.forward` for a frame of torch's."""
    path = frame.file.replace("\\", "/").removesuffix(".py")
    for root in ("site-packages/", "dist-packages/", "lib/python3"):
        if root in path:
            path = path.rsplit(root, 1)[1]
    return f"{path.strip('/').replace('/', '.')}.{frame.function}"
