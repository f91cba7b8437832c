"""DistributedDataParallel: its reducer all-reduces gradients in C++, where no function of Python's can be wrapped.

When the last node of a backward pass has run, autograd calls what was queued for that moment; the reducer queues its
wait for the gradients there, once all are ready. We queue a time stamp before it, so the time from the stamp to the
end of backward is what the reduction holds the training up: exposed communication, of every step. It is queued from a
hook that stays on the node that takes the gradient of the module's first parameter. Where that parameter may get none,
or a backward pass runs within another (which may end before the outer one does), the hook is on the node where backward
begins; it is put there anew in each pass, which takes longer.

How much was hidden the reducer's own logging says, which samples the first ten iterations and every hundredth (on a CPU
we ask for every sixteenth; on a GPU a sample waits for the device, so there it stays as it is). We read what it holds
now and then, which takes 35 µs.
"""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge
from torch.nn.parallel import DistributedDataParallel

from ..record.vocabulary import Communication
from .collectives import codes_of
from .session import Session
from .traffic import Traffic

_FIRST_READ = 6
_READ_EVERY = 16  # steps
_SAMPLE_EVERY = 16  # iterations, on a CPU
_MOST_BUCKETS = 64
_is_compiling = torch.compiler.is_compiling


class Gradients:
    """Follows the DDP modules of a process."""

    def __init__(self, session: Session, traffic: Traffic) -> None:
        self.session = session
        self.traffic = traffic
        self.modules: list[weakref.ref[DistributedDataParallel]] = []
        self.synced = 0  # backward passes that reduce
        self.unsynced = 0  # and those under `no_sync`
        self.at_root = False  # a stamp is queued where backward begins
        self._hooks: list[Any] = []
        self._queue: Callable[[Any], None] | None = None
        self._sampled: dict[str, float] = {"samples": 0, "comm_ns": 0, "hidden_ns": 0, "compute_ns": 0}
        self._iteration = -1
        self._next_note = 0

    def found(self, module: DistributedDataParallel) -> None:
        """A module was wrapped."""
        if not self.modules:
            session = self.session
            engine_call = getattr(torch.autograd, "_engine_run_backward", None)
            if engine_call is None:
                session.note("unobserved", what="communication", why="this torch has no place to see DDP's reduction")
            else:
                replaced, self._queue = _seen_backward(self, engine_call)
                session.patches.replace(torch.autograd, "_engine_run_backward", replaced)
                session.on_close(self.leave_parameters)
            _watch_buffers(session, self.traffic)
            session.on_step(self._read_now_and_then, first=_FIRST_READ)
            session.on_end(self._read_and_note)
        if module.device_type == "cpu":
            module._set_ddp_runtime_logging_sample_rate(_SAMPLE_EVERY)
        self.modules.append(weakref.ref(module))
        if module.find_unused_parameters or module.static_graph:
            self.leave_parameters()
        elif self._queue is not None and not self.at_root:
            node = get_gradient_edge(_first_reduced(module)).node
            self._hooks.append(node.register_prehook(self._queue))

    def leave_parameters(self) -> None:
        """From here on a stamp is queued where backward begins."""
        self.at_root = True
        while self._hooks:
            self._hooks.pop().remove()

    def reduces(self) -> bool:
        """Whether the next backward pass ends with a reduction, as far as the modules say."""
        for reference in self.modules:
            module = reference()
            if module is not None and module.require_backward_grad_sync:
                return True
        return False

    def _read_now_and_then(self) -> int:
        """Take a sample; say what is known at steps that lie further and further apart."""
        self._read(note=self.session.steps >= self._next_note)
        return self.session.steps + _READ_EVERY

    def _read_and_note(self) -> None:
        self._read(note=True)

    def _read(self, note: bool) -> None:
        module = next((module for module in (reference() for reference in self.modules) if module is not None), None)
        if module is None:
            return
        data = module._get_ddp_logging_data()
        self._add_sample(data)
        if note:
            self._next_note = 2 * self.session.steps
            self.session.note("ddp", **self._described(module, data))

    def _add_sample(self, data: dict[str, Any]) -> None:
        """Count the sample that the reducer holds, once; the first iterations, which warm up, are left out."""
        ended = data.get("backward_comm_time_end")
        if not ended or ended == self._iteration or data.get("iteration", 0) < 5:
            return
        self._iteration = ended
        sampled = self._sampled
        sampled["samples"] += 1
        sampled["comm_ns"] += data.get("backward_comm_time", 0)
        sampled["hidden_ns"] += data.get("backward_compute_comm_overlap_time", 0)
        sampled["compute_ns"] += data.get("backward_compute_time", 0)

    def _described(self, module: DistributedDataParallel, data: dict[str, Any]) -> dict[str, Any]:
        sizes = data.get("rebuilt_bucket_sizes") or data.get("bucket_sizes") or ""
        return {
            "module": data.get("module_name"),
            "modules": len(self.modules),
            "bucket_cap_bytes": data.get("bucket_cap_bytes"),
            "bucket_bytes": [int(size) for size in str(sizes).split(",") if size.strip().isdigit()][:_MOST_BUCKETS],
            "parameter_bytes": data.get("total_parameter_size_bytes"),
            "parameter_tensors": data.get("num_parameter_tensors"),
            "unused_parameter_bytes": data.get("unused_parameter_size"),
            "dtypes": data.get("dtypes"),
            "find_unused_parameters": bool(data.get("find_unused_parameters")),
            "gradient_as_bucket_view": bool(data.get("gradient_as_bucket_view")),
            "static_graph": bool(module.static_graph),
            "comm_hook": data.get("comm_hook"),
            "buffers_broadcast": bool(data.get("broadcast_buffers")) and any(True for _ in module.module.buffers()),
            "synced_backwards": self.synced,
            "unsynced_backwards": self.unsynced,
            **self._sampled,
        }


def install(session: Session, traffic: Traffic) -> None:
    """Wait for a module to be wrapped in DDP."""
    gradients = Gradients(session, traffic)
    original = DistributedDataParallel.__init__

    @functools.wraps(original)
    def __init__(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if session.active and not _is_compiling():
            try:
                gradients.found(self)
            except Exception as error:
                session.fail("DistributedDataParallel", error)

    session.patches.replace(DistributedDataParallel, "__init__", __init__)
    if session.config.late and torch.distributed.is_initialized():
        for module in gc.get_objects():
            if issubclass(type(module), DistributedDataParallel):  # of its type alone: nothing of it is called
                gradients.found(module)


def _seen_backward(gradients: Gradients, original: Any) -> tuple[Callable[..., Any], Callable[[Any], None]]:
    """The call into autograd's engine, inside of what times backward; and what queues a stamp from within it."""
    session = gradients.session
    record, clock = session.record, session.clock
    push, pop, raised = codes_of(Communication.GRADIENTS, 0)
    queue_callback = torch.autograd.Variable._execution_engine.queue_callback
    running = awaited = waiting = False  # a pass; and in it: a stamp is to be queued, was taken

    def graph_has_run() -> None:
        """Queued before the reducer's own, so it is called right before it; an error must not reach autograd."""
        nonlocal waiting
        if session.active:
            waiting = True
            record((push, clock()))

    def queue(_: Any) -> None:
        nonlocal awaited
        if awaited:
            awaited = False
            try:
                queue_callback(graph_has_run)
            except Exception as error:
                session.fail("DistributedDataParallel", error)

    @functools.wraps(original)
    def run_backward(*args: Any, **kwargs: Any) -> Any:
        nonlocal waiting, running, awaited
        if running:
            gradients.leave_parameters()
        if running or not kwargs.get("accumulate_grad") or get_ident() != session.owner:
            return original(*args, **kwargs)
        if session.guarded and (_is_compiling() or _compiled(gradients)):
            return original(*args, **kwargs)
        handle = None
        try:
            awaited = gradients.reduces()
            if awaited:
                gradients.synced += 1
                root = _root(args[0]) if gradients.at_root else None
                handle = root.register_prehook(queue) if root is not None else None
            else:
                gradients.unsynced += 1
        except Exception as error:
            session.fail("DistributedDataParallel", error)
        if not awaited:
            return original(*args, **kwargs)
        running = True
        try:
            result = original(*args, **kwargs)
        except BaseException:
            if waiting:
                session.write_safely(raised, "communication")
            raise
        finally:
            waited, running, awaited, waiting = waiting, False, False, False
            if handle is not None:
                handle.remove()
        if waited:
            session.write_safely(pop, "communication")
        else:
            gradients.leave_parameters()
        return result

    return run_backward, queue


def _compiled(gradients: Gradients) -> bool:
    """Whether autograd itself is compiled: it would trace our hooks."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    if module is None or not getattr(module, "compiled_autograd_enabled", False):
        return False
    gradients.leave_parameters()
    return True


def _first_reduced(module: DistributedDataParallel) -> torch.Tensor:
    """The parameter whose gradient, as a rule, comes last."""
    ignored = module.parameters_to_ignore
    return next(
        parameter
        for name, parameter in module.module.named_parameters()
        if parameter.requires_grad and name not in ignored
    )


def _root(tensors: Any) -> Any:
    """The node where backward begins."""
    first = tensors if isinstance(tensors, torch.Tensor) else next(iter(tensors), None)
    return first.grad_fn if isinstance(first, torch.Tensor) else None


def _watch_buffers(session: Session, traffic: Traffic) -> None:
    """The broadcast of buffers in forward is C++ too, but a method of Python's calls it."""
    original = getattr(DistributedDataParallel, "_sync_buffers", None)
    if original is None:
        return
    push, pop, raised = codes_of(Communication.BUFFERS, 0)
    record, clock = session.record, session.clock

    @functools.wraps(original)
    def _sync_buffers(self: Any, *args: Any, **kwargs: Any) -> Any:
        if traffic.inside or _is_compiling() or get_ident() != session.owner:
            return original(self, *args, **kwargs)
        record((push, clock()))
        try:
            result = original(self, *args, **kwargs)
        except BaseException:
            session.write_safely(raised, "communication")
            raise
        record((pop, clock()))
        return result

    session.patches.replace(DistributedDataParallel, "_sync_buffers", _sync_buffers)
