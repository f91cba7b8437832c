"""Settings of the whole process: threads, precision, autocast, wrappers for many devices, garbage collection.

What a call sets is noted as it passes by, with the user's line; what stands is read once, after the first
steps, when nothing that we ask can initialise anything any more.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import multiprocessing
import os
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from . import limits
from .callsite import caller
from .imports import when_imported
from .session import Session

_CONTEXTLIB = contextlib.contextmanager.__code__.co_filename
_READ_AT_STEP = 3
_AUTOCAST_LOOKS = 64  # so many entries of autocast are looked at, then it is left alone
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES")
_DDP_WORDS = (
    "bucket_cap_mb",
    "find_unused_parameters",
    "static_graph",
    "gradient_as_bucket_view",
    "broadcast_buffers",
)
_COMPILE_WORDS = ("backend", "mode", "dynamic", "fullgraph")
_FSDP_WORDS = (
    "sharding_strategy",
    "backward_prefetch",
    "forward_prefetch",
    "limit_all_gathers",
    "reshard_after_forward",
)
_TRAINERS = {
    "transformers": ("transformers.trainer",),
    "lightning": ("lightning.pytorch.trainer.trainer", "pytorch_lightning.trainer.trainer"),
    "accelerate": ("accelerate.accelerator",),
}

_is_compiling = torch.compiler.is_compiling

# name → (site or None): what was set by a call that we saw
_set_by: weakref.WeakKeyDictionary[Session, dict[str, dict[str, Any] | None]] = weakref.WeakKeyDictionary()


def install(session: Session) -> None:
    """Watch the calls that set something, and read what stands at the third step."""
    _set_by[session] = {}
    _watch_setters(session)
    _watch_autocast(session)
    _watch_wrappers(session)
    session.on_step(lambda: note_standing(session), first=_READ_AT_STEP)


def was_set(session: Session, name: str) -> bool:
    """Whether a call that sets `name` was seen in this session."""
    return name in _set_by.get(session, {})


def _note(session: Session, name: str, value: Any, site: dict[str, Any] | None = None) -> None:
    site = site or _set_by.get(session, {}).get(name)
    session.note(
        "setting",
        name=name,
        value=value,
        file=site["file"] if site else None,
        line=site["line"] if site else None,
    )


# calls that set something


def _watch_setters(session: Session) -> None:
    for owner, function, name in (
        (torch, "set_num_threads", "torch_num_threads"),
        (torch, "set_num_interop_threads", "torch_num_interop_threads"),
        (torch, "set_float32_matmul_precision", "matmul_precision"),
        (torch, "use_deterministic_algorithms", "deterministic_algorithms"),
        (torch, "set_default_dtype", "default_dtype"),
        (torch.autograd.set_detect_anomaly, "__init__", "anomaly_mode"),
        (torch.autograd.detect_anomaly, "__enter__", "anomaly_mode"),
        (torch.amp.GradScaler, "__init__", "grad_scaler"),
    ):
        session.patches.replace(owner, function, _remember(session, getattr(owner, function), name))


def _remember(session: Session, original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`original`, remembering the user's line of its last call."""

    @functools.wraps(original)
    def setter(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if session.active and not _is_compiling() and not (name == "anomaly_mode" and _torchs_own(sys._getframe(1))):
            try:
                _set_by[session][name] = caller(2)
                if name == "grad_scaler":
                    _note(session, name, bool(args[0].is_enabled()))
                elif name == "anomaly_mode":
                    _note(
                        session,
                        name,
                        torch.is_anomaly_enabled() or type(args[0]).__name__ == "detect_anomaly",
                    )
            except Exception as error:
                session.fail("settings", error)
        return result

    return setter


def _torchs_own(frame: FrameType) -> bool:
    """Whether torch itself calls: its compiler turns anomaly detection on for a moment, to name lines."""
    while frame.f_code.co_filename == _CONTEXTLIB and frame.f_back is not None:
        frame = frame.f_back
    name = str(frame.f_globals.get("__name__", ""))
    return name.startswith(("torch._functorch", "torch._dynamo", "torch._inductor", "torch.fx"))


def _watch_autocast(session: Session) -> None:
    original = torch.autocast.__enter__
    seen: set[tuple[Any, ...]] = set()
    looks = 0

    @functools.wraps(original)
    def __enter__(self: Any) -> Any:  # noqa: N807
        nonlocal looks
        result = original(self)
        if not session.active or _is_compiling():
            return result
        try:
            looks += 1
            if looks > _AUTOCAST_LOOKS and vars(torch.autocast).get("__enter__") is __enter__:
                torch.autocast.__enter__ = original
            known = (self.device, self.fast_dtype, self._enabled)
            if known not in seen:
                seen.add(known)
                value = {
                    "device": str(self.device),
                    "dtype": _dtype(self.fast_dtype),
                    "enabled": bool(self._enabled),
                }
                _note(session, "autocast", value, caller(2))
        except Exception as error:
            session.fail("autocast", error)
        return result

    session.patches.replace(torch.autocast, "__enter__", __enter__)


def _watch_wrappers(session: Session) -> None:
    parallel = torch.nn.parallel
    _watch_wrapper(session, parallel.DistributedDataParallel, "__init__", "ddp", _DDP_WORDS)
    _watch_wrapper(session, parallel.DataParallel, "__init__", "data_parallel", ())

    def fsdp(module: Any) -> None:
        if session.active:
            _watch_wrapper(session, module.FullyShardedDataParallel, "__init__", "fsdp", _FSDP_WORDS)
            if hasattr(module, "fully_shard"):
                _watch_wrapper(session, module, "fully_shard", "fsdp", _FSDP_WORDS)

    def pipelines(module: Any) -> None:
        for name in ("PipelineScheduleSingle", "PipelineScheduleMulti"):
            if session.active and hasattr(module, name):
                _watch_pipeline(session, getattr(module, name))

    session.on_close(when_imported("torch.distributed.fsdp", fsdp))
    session.on_close(when_imported("torch.distributed.pipelining.schedules", pipelines))
    _watch_wrapper(session, torch, "compile", "compile", _COMPILE_WORDS)
    _watch_wrapper(session, torch.nn.Module, "compile", "compile", _COMPILE_WORDS)


def _watch_wrapper(session: Session, owner: Any, function: str, name: str, words: tuple[str, ...]) -> None:
    """Note the first call of what wraps a model, with the arguments that matter."""
    original = getattr(owner, function)

    @functools.wraps(original)
    def wrap(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if session.active and not was_set(session, name) and not _is_compiling():
            try:
                site = _set_by[session][name] = caller(2)
                called = inspect.signature(original).bind(*args, **kwargs)
                called.apply_defaults()
                given = {word: _plain(called.arguments[word]) for word in words if word in called.arguments}
                kind = owner.__name__ if isinstance(owner, type) else function
                _note(session, name, {"class": kind, **given}, site)
            except Exception as error:
                session.fail("settings", error)
        return result

    session.patches.replace(owner, function, wrap)


def _watch_pipeline(session: Session, schedule: Any) -> None:
    """Note the first schedule of a pipeline: how many stages and micro-batches it has."""
    original = schedule.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if not session.active or was_set(session, "pipeline"):
            return
        try:
            site = _set_by[session]["pipeline"] = caller(2)
            value = {
                "schedule": type(self).__name__,
                "micro_batches": int(self._n_microbatches),
                "stages": int(self._num_stages),
                "stages_of_rank": len(getattr(self, "_stages", (self,))),
            }
            _note(session, "pipeline", value, site)
        except Exception as error:
            session.fail("settings", error)

    session.patches.replace(schedule, "__init__", __init__)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


# what stands after the first steps


def note_standing(session: Session) -> None:
    """Note what holds now. A value that this version of torch can't tell is left out."""
    for name, read in _STANDING.items():
        try:
            value = read()
        except Exception:  # a backend or an accessor that this build lacks
            continue
        _note(session, name, value)
    for variable in _VARIABLES:
        if variable in os.environ:
            _note(session, variable, os.environ[variable])
    if not was_set(session, "anomaly_mode"):
        _note(session, "anomaly_mode", torch.is_anomaly_enabled())


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _world_size() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1"))


def _garbage_collection() -> dict[str, Any]:
    return {"enabled": gc.isenabled(), "threshold": gc.get_threshold(), "frozen": gc.get_freeze_count()}


def _frameworks() -> list[str]:
    """Training frameworks whose trainer this process has loaded."""
    return sorted({name for name, modules in _TRAINERS.items() if any(module in sys.modules for module in modules)})


_STANDING: dict[str, Callable[[], Any]] = {
    "torch_num_threads": torch.get_num_threads,
    "torch_num_interop_threads": torch.get_num_interop_threads,
    "cores": limits.cores,
    "core_quota": limits.core_quota,
    "memory_bytes": limits.memory_bytes,
    "default_dtype": lambda: _dtype(torch.get_default_dtype()),
    # the C accessors: the public properties warn, or raise where old and new names were mixed
    "matmul_precision": lambda: torch._C._get_float32_matmul_precision(),
    "tf32_matmul": lambda: torch._C._get_cublas_allow_tf32(),
    "tf32_cudnn": lambda: torch._C._get_cudnn_allow_tf32(),
    "cudnn_benchmark": lambda: torch._C._get_cudnn_benchmark(),
    "cudnn_deterministic": lambda: torch._C._get_cudnn_deterministic(),
    "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
    "start_method": lambda: (
        multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    ),
    "world_size": _world_size,
    "gc": _garbage_collection,
    "frameworks": _frameworks,
}
